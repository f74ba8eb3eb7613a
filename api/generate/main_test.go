package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// TestGeneratedCodeIsCurrent wants what go generate would write to be there.
func TestGeneratedCodeIsCurrent(t *testing.T) {
	dir := filepath.Join("..", dir)
	files, err := generate(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(plugins) {
		t.Errorf("%d files are generated, want one of each of %v", len(files), plugins)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			t.Error(err)
		} else if string(got) != want {
			t.Errorf("%s is not what slacker.proto says: run go generate ./api", name)
		}
	}
}
