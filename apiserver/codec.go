package apiserver

import (
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/slackerd/slacker/block"
)

// strictJSON reads and writes messages as JSON. Unlike connect's own codec it
// refuses unknown fields and writes empty ones.
type strictJSON struct{ name string }

// jsonNames are the content types that mean JSON to connect.
var jsonNames = []string{"json", "json; charset=utf-8"}

func (c strictJSON) Name() string { return c.name }

func (c strictJSON) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, block.Errorf(block.Internal, "write JSON: %T is no protobuf message", v)
	}
	return protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
}

func (c strictJSON) Unmarshal(data []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return block.Errorf(block.Internal, "read JSON: %T is no protobuf message", v)
	}
	if len(data) == 0 {
		return block.Errorf(block.Invalid, "no request given: want a JSON object, at least {}")
	}
	return protojson.Unmarshal(data, m)
}
