package worker

import (
	"errors"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"

	"github.com/slackerd/slacker/block"
)

// The generic netlink family of the kernel's NBD client
// (linux/nbd-netlink.h).
const (
	nbdFamily     = "nbd"
	nbdVersion    = 1
	nbdEventGroup = "nbd_mc_group"

	nbdCmdConnect     = 1
	nbdCmdDisconnect  = 2
	nbdCmdReconfigure = 3
	nbdCmdLinkDead    = 4

	nbdAttrIndex             = 1
	nbdAttrSizeBytes         = 2
	nbdAttrBlockSizeBytes    = 3
	nbdAttrTimeout           = 4
	nbdAttrServerFlags       = 5
	nbdAttrSockets           = 7
	nbdAttrDeadConnTimeout   = 8
	nbdAttrBackendIdentifier = 10
	nbdSocketItem            = 1
	nbdSocketFD              = 1
)

// nbdBlockBytes is the logical block size of the devices: what is made on the
// fuse driver's loop device must be readable on this one.
const nbdBlockBytes = 512

// nbdLink is a netlink socket to the kernel's NBD client.
type nbdLink struct {
	conn   *genetlink.Conn
	family genetlink.Family
}

// openNBDLink connects to the family; Unsupported when the kernel has none.
func openNBDLink() (*nbdLink, error) {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return nil, block.Errorf(block.Unsupported, "open generic netlink: %w", err)
	}
	return newNBDLink(conn)
}

func newNBDLink(conn *genetlink.Conn) (*nbdLink, error) {
	family, err := conn.GetFamily(nbdFamily)
	if err != nil {
		_ = conn.Close()
		if errors.Is(err, os.ErrNotExist) {
			return nil, block.Errorf(block.Unsupported, "the kernel has no netlink family %q", nbdFamily)
		}
		return nil, block.Errorf(block.Unsupported, "netlink family %q: %w", nbdFamily, err)
	}
	return &nbdLink{conn, family}, nil
}

func (l *nbdLink) close() { _ = l.conn.Close() }

// nbdConfig is what a device is connected with.
type nbdConfig struct {
	sizeBytes               uint64
	serverFlags             uint64
	requestTimeout, deadFor time.Duration
	backend                 string // shown in /sys/block/nbdN/backend
}

// connect makes a device on the first free index, which the kernel chooses.
// The kernel takes references to the sockets.
func (l *nbdLink) connect(c nbdConfig, sockets []*os.File) (index uint32, err error) {
	ae := netlink.NewAttributeEncoder()
	ae.Uint64(nbdAttrSizeBytes, c.sizeBytes)
	ae.Uint64(nbdAttrBlockSizeBytes, nbdBlockBytes)
	ae.Uint64(nbdAttrTimeout, uint64(c.requestTimeout/time.Second))
	ae.Uint64(nbdAttrServerFlags, c.serverFlags)
	ae.Uint64(nbdAttrDeadConnTimeout, uint64(c.deadFor/time.Second))
	ae.String(nbdAttrBackendIdentifier, c.backend)
	ae.Nested(nbdAttrSockets, encodeSockets(sockets))
	// The answer is a message of its own; an acknowledgement asked for besides
	// would stay in the socket and be read as the answer to the next request.
	msgs, err := l.execute(nbdCmdConnect, netlink.Request, ae)
	runtime.KeepAlive(sockets)
	if err != nil {
		return 0, block.Errorf(block.IO, "connect an nbd device: %w", err)
	}
	for _, m := range msgs {
		if index, ok := indexOf(m); ok {
			return index, nil
		}
	}
	return 0, block.Errorf(block.IO, "connect an nbd device: the kernel does not say which")
}

// reconfigure offers the device sockets in place of dead ones. The kernel
// silently leaves out those for which it has none dead.
func (l *nbdLink) reconfigure(index uint32, backend string, sockets []*os.File) error {
	ae := netlink.NewAttributeEncoder()
	ae.Uint32(nbdAttrIndex, index)
	ae.String(nbdAttrBackendIdentifier, backend)
	ae.Nested(nbdAttrSockets, encodeSockets(sockets))
	_, err := l.execute(nbdCmdReconfigure, netlink.Request|netlink.Acknowledge, ae)
	runtime.KeepAlive(sockets)
	if err != nil {
		return block.Errorf(block.IO, "reconfigure nbd%d: %w", index, err)
	}
	return nil
}

// disconnect ends a device; what is in flight on it fails.
func (l *nbdLink) disconnect(index uint32) error {
	ae := netlink.NewAttributeEncoder()
	ae.Uint32(nbdAttrIndex, index)
	if _, err := l.execute(nbdCmdDisconnect, netlink.Request|netlink.Acknowledge, ae); err != nil {
		return block.Errorf(block.IO, "disconnect nbd%d: %w", index, err)
	}
	return nil
}

// listen joins the group in which the kernel announces dead sockets.
func (l *nbdLink) listen() error {
	for _, g := range l.family.Groups {
		if g.Name == nbdEventGroup {
			if err := l.conn.JoinGroup(g.ID); err != nil {
				return block.Errorf(block.IO, "listen for dead nbd sockets: %w", err)
			}
			return nil
		}
	}
	return block.Errorf(block.Unsupported, "listen for dead nbd sockets: the kernel has no group %q", nbdEventGroup)
}

// linkDead waits for the next announcement and returns the devices named.
func (l *nbdLink) linkDead() ([]uint32, error) {
	msgs, _, err := l.conn.Receive()
	if err != nil {
		return nil, block.Errorf(block.IO, "listen for dead nbd sockets: %w", err)
	}
	var dead []uint32
	for _, m := range msgs {
		if index, ok := indexOf(m); ok && m.Header.Command == nbdCmdLinkDead {
			dead = append(dead, index)
		}
	}
	return dead, nil
}

func (l *nbdLink) execute(command uint8, flags netlink.HeaderFlags, ae *netlink.AttributeEncoder) ([]genetlink.Message, error) {
	b, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	return l.conn.Execute(genetlink.Message{Header: genetlink.Header{Command: command, Version: nbdVersion}, Data: b}, l.family.ID, flags)
}

func indexOf(m genetlink.Message) (uint32, bool) {
	ad, err := netlink.NewAttributeDecoder(m.Data)
	if err != nil {
		return 0, false
	}
	for ad.Next() {
		if ad.Type() == nbdAttrIndex && len(ad.Bytes()) == 4 {
			return ad.Uint32(), true
		}
	}
	return 0, false
}

func encodeSockets(sockets []*os.File) func(*netlink.AttributeEncoder) error {
	return func(ae *netlink.AttributeEncoder) error {
		for _, f := range sockets {
			fd := uint32(f.Fd())
			ae.Nested(nbdSocketItem, func(ae *netlink.AttributeEncoder) error {
				ae.Uint32(nbdSocketFD, fd)
				return nil
			})
		}
		return nil
	}
}

// socketFile is a descriptor of conn for the kernel; conn itself is closed.
func socketFile(conn net.Conn) (*os.File, error) {
	defer func() { _ = conn.Close() }()
	c, isSocket := conn.(interface{ File() (*os.File, error) })
	if !isSocket {
		return nil, block.Errorf(block.Internal, "take the descriptor of a connection: it is a %T", conn)
	}
	f, err := c.File()
	if err != nil {
		return nil, block.Errorf(block.IO, "take the descriptor of a connection: %w", err)
	}
	return f, nil
}
