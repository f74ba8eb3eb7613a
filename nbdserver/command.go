package nbdserver

import "fmt"

// commandRule is what is known of a command before it runs.
type commandRule struct {
	name  string
	flags uint16 // valid for it
	// ranged: offset and length name a range of the device.
	ranged bool
	writes bool
	// data: the request or the reply carries length bytes.
	data bool
	// beyond is the answer to a range that ends beyond the device.
	beyond Errno
}

// commands is indexed by Command.
var commands = [...]commandRule{
	CmdRead:        {name: "read", flags: cmdFlagFUA | cmdFlagDF, ranged: true, data: true, beyond: EINVAL},
	CmdWrite:       {name: "write", flags: cmdFlagFUA | cmdFlagPayload, ranged: true, writes: true, data: true, beyond: ENOSPC},
	CmdDisc:        {name: "disc"},
	CmdFlush:       {name: "flush", flags: cmdFlagFUA},
	CmdTrim:        {name: "trim", flags: cmdFlagFUA, ranged: true, writes: true, beyond: EINVAL},
	CmdCache:       {name: "cache", flags: cmdFlagFUA, ranged: true, beyond: EINVAL},
	CmdWriteZeroes: {name: "write_zeroes", flags: cmdFlagFUA | cmdFlagNoHole | cmdFlagFastZero, ranged: true, writes: true, beyond: ENOSPC},
	CmdBlockStatus: {name: "block_status", flags: cmdFlagFUA | cmdFlagReqOne | cmdFlagPayload, ranged: true, beyond: EINVAL},
}

// maxCacheBytes bounds the range of one CACHE, which makes a device read it all;
// longer ones can only be asked for with extended headers.
const maxCacheBytes = 1<<32 - 1

// check holds a command to the protocol and to the device (invariant 2). The
// text says what is wrong with it.
func (c *conn) check(r *request) (Errno, string) {
	if int(r.cmd) >= len(commands) {
		return EINVAL, fmt.Sprintf("unknown command %d", uint16(r.cmd))
	}
	rule := &commands[r.cmd]
	flags := rule.flags
	switch c.headers {
	case compact:
		flags &^= cmdFlagDF | cmdFlagPayload
	case structured:
		flags &^= cmdFlagPayload
	}
	if r.flags&^flags != 0 {
		return EINVAL, fmt.Sprintf("flags %#x of %s: want no others than %#x", r.flags, rule.name, flags)
	}
	if rule.writes && c.info.ReadOnly {
		return EPERM, rule.name + ": the export is read-only"
	}
	if !rule.ranged {
		return OK, ""
	}
	if r.offBytes > c.info.SizeBytes || r.lengthBytes > c.info.SizeBytes-r.offBytes {
		return rule.beyond, fmt.Sprintf("%s of %d bytes at %d: the export ends at %d", rule.name, r.lengthBytes, r.offBytes, c.info.SizeBytes)
	}
	if unit := uint64(c.info.MinBlockBytes); (r.offBytes|r.lengthBytes)&(unit-1) != 0 {
		return EINVAL, fmt.Sprintf("%s of %d bytes at %d: want multiples of %d", rule.name, r.lengthBytes, r.offBytes, unit)
	}
	if rule.data && r.lengthBytes > uint64(c.info.MaxRequestBytes) {
		return EINVAL, fmt.Sprintf("%s of %d bytes: want at most %d", rule.name, r.lengthBytes, c.info.MaxRequestBytes)
	}
	return c.checkRest(r)
}

// checkRest holds the rules of single commands.
func (c *conn) checkRest(r *request) (Errno, string) {
	switch {
	case r.cmd == CmdBlockStatus && r.contexts == 0 && len(c.contexts) > 0:
		return EINVAL, "block status: want a payload of a length and some of the metadata contexts that are set, each once"
	case r.cmd == CmdBlockStatus && r.contexts == 0:
		return EINVAL, "block status: no metadata context is set for this export"
	case r.cmd == CmdBlockStatus && r.lengthBytes == 0:
		return EINVAL, "block status of 0 bytes: want at least 1"
	case r.cmd == CmdCache && r.lengthBytes > maxCacheBytes:
		return EOVERFLOW, fmt.Sprintf("cache of %d bytes: want at most %d", r.lengthBytes, uint64(maxCacheBytes))
	case r.flags&cmdFlagFastZero != 0 && !c.info.FastZero:
		return ENOTSUP, "this export has no fast zeroes"
	}
	return OK, ""
}
