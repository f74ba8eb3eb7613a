// Command generate writes the Go code of the admin API from slacker.proto, with
// the plugins of the versions in go.mod and nothing that is not in it: the compiler
// is a module too. It runs in the directory api, by go generate.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/pluginpb"
)

// definition is the file to generate from, below dir.
const (
	dir        = "slacker/v1"
	definition = "slacker.proto"
)

// plugins are programs that go.mod names as tools.
var plugins = []string{"protoc-gen-go", "protoc-gen-connect-go"}

func main() {
	files, err := generate(context.Background(), dir)
	if err == nil {
		err = write(files)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// generate returns the generated files by their paths below dir.
func generate(ctx context.Context, dir string) (map[string]string, error) {
	request, err := compile(ctx, dir)
	if err != nil {
		return nil, err
	}
	in, err := proto.Marshal(request)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for _, plugin := range plugins {
		var errText bytes.Buffer
		cmd := exec.CommandContext(ctx, "go", "tool", plugin)
		cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &errText
		out, err := cmd.Output()
		var answer pluginpb.CodeGeneratorResponse
		if err == nil {
			err = proto.Unmarshal(out, &answer)
		}
		if err != nil || answer.GetError() != "" {
			return nil, fmt.Errorf("%s: %w: %s%s", plugin, err, answer.GetError(), errText.String())
		}
		for _, f := range answer.GetFile() {
			files[f.GetName()] = f.GetContent()
		}
	}
	return files, nil
}

// compile reads the definition and makes what a plugin is asked.
func compile(ctx context.Context, dir string) (*pluginpb.CodeGeneratorRequest, error) {
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{dir}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	compiled, err := compiler.Compile(ctx, definition)
	if err != nil {
		return nil, err
	}
	request := &pluginpb.CodeGeneratorRequest{FileToGenerate: []string{definition}, Parameter: proto.String("paths=source_relative")}
	imports := compiled[0].Imports()
	for i := range imports.Len() {
		request.ProtoFile = append(request.ProtoFile, protodesc.ToFileDescriptorProto(imports.Get(i)))
	}
	source, ok := compiled[0].(linker.Result) // has the comments
	if !ok {
		return nil, fmt.Errorf("%s was compiled to a %T", definition, compiled[0])
	}
	request.ProtoFile = append(request.ProtoFile, source.FileDescriptorProto())
	return request, nil
}

func write(files map[string]string) error {
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // source code
			return err
		}
	}
	return nil
}
