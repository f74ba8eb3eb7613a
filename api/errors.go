package api

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	"github.com/slackerd/slacker/block"
)

// kindHeader carries the kind of an error, since several kinds share a code.
const kindHeader = "Slacker-Kind"

// wire is the one table of kinds: the code and the exit status of each.
var wire = map[block.Kind]struct {
	code connect.Code
	exit int
}{
	block.Internal:    {connect.CodeInternal, 1},
	block.Invalid:     {connect.CodeInvalidArgument, 2},
	block.NotFound:    {connect.CodeNotFound, 3},
	block.Exists:      {connect.CodeAlreadyExists, 4},
	block.Busy:        {connect.CodeFailedPrecondition, 5},
	block.NoSpace:     {connect.CodeResourceExhausted, 6},
	block.ReadOnly:    {connect.CodeFailedPrecondition, 7},
	block.Corrupt:     {connect.CodeDataLoss, 8},
	block.IO:          {connect.CodeUnknown, 9},
	block.Fenced:      {connect.CodeAborted, 10},
	block.Permission:  {connect.CodePermissionDenied, 11},
	block.Unsupported: {connect.CodeUnimplemented, 12},
	block.Unavailable: {connect.CodeUnavailable, 13},
}

// codeKinds is for errors without the header: those which a library or another
// program made.
var codeKinds = map[connect.Code]block.Kind{
	connect.CodeCanceled:           block.Unavailable,
	connect.CodeUnknown:            block.Internal,
	connect.CodeInvalidArgument:    block.Invalid,
	connect.CodeDeadlineExceeded:   block.Unavailable,
	connect.CodeNotFound:           block.NotFound,
	connect.CodeAlreadyExists:      block.Exists,
	connect.CodePermissionDenied:   block.Permission,
	connect.CodeResourceExhausted:  block.NoSpace,
	connect.CodeFailedPrecondition: block.Busy,
	connect.CodeAborted:            block.Fenced,
	connect.CodeOutOfRange:         block.Invalid,
	connect.CodeUnimplemented:      block.Unsupported,
	connect.CodeInternal:           block.Internal,
	connect.CodeUnavailable:        block.Unavailable,
	connect.CodeDataLoss:           block.Corrupt,
	connect.CodeUnauthenticated:    block.Permission,
}

// ExitInterrupted is the exit status after an interrupt (128 + SIGINT).
const ExitInterrupted = 130

// ExitStatusHelp is the table of exit statuses for the help of commands.
const ExitStatusHelp = `  0    done
  1    internal error: a fault of the program
  2    wrong usage, or invalid input
  3    no such volume, snapshot or attachment
  4    the name is taken
  5    busy: in use by somebody else
  6    no space left in the store
  7    read-only
  8    stored data is damaged
  9    I/O error below the store
  10   fenced: replaced by a newer attachment
  11   permission denied
  12   not supported by this host or build
  13   the server is not there, or is shutting down
  130  interrupted`

// ToConnect gives err the code and the header of its kind; nil stays nil.
func ToConnect(err error) error {
	if err == nil {
		return nil
	}
	var own *connect.Error
	if errors.As(err, &own) {
		return err
	}
	var kinded *block.Error
	if !errors.As(err, &kinded) {
		if errors.Is(err, context.Canceled) {
			return connect.NewError(connect.CodeCanceled, err)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return connect.NewError(connect.CodeDeadlineExceeded, err)
		}
	}
	kind := block.KindOf(err)
	out := connect.NewError(wire[kind].code, errors.New(strings.ToValidUTF8(err.Error(), "\uFFFD")))
	out.Meta().Set(kindHeader, kind.String())
	return out
}

// FromConnect turns what a client call returned into an error that carries a
// kind and the text of the server; nil stays nil. When the server is not
// reachable the kind is Unavailable and the text names its address.
func FromConnect(err error) error {
	if err == nil {
		return nil
	}
	var ready *block.Error // made by the client's transport, or not of a call
	if errors.As(err, &ready) {
		return ready
	}
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return &block.Error{Kind: block.Internal, Text: err.Error(), Err: err}
	}
	if errors.Is(err, context.Canceled) || ce.Code() == connect.CodeCanceled {
		return &block.Error{Kind: block.Unavailable, Text: "the request was cancelled before the server answered", Err: fmt.Errorf("%w: %w", context.Canceled, err)}
	}
	kind, ok := parseKind(ce.Meta().Get(kindHeader))
	if !ok {
		kind = codeKinds[ce.Code()]
	}
	return &block.Error{Kind: kind, Text: ce.Message(), Err: err}
}

func parseKind(s string) (block.Kind, bool) {
	for _, k := range block.Kinds() {
		if k.String() == s {
			return k, true
		}
	}
	return block.Internal, false
}

// ExitStatus returns the exit status of a command that ended with err.
func ExitStatus(err error) int {
	if err == nil {
		return 0
	}
	if errors.Is(err, context.Canceled) {
		return ExitInterrupted
	}
	var ce *connect.Error
	if errors.As(err, &ce) {
		err = FromConnect(err)
	}
	return wire[block.KindOf(err)].exit
}
