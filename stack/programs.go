package stack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Programs is where the programs of the stack are: DIR/debian/bin has Debian's
// containerd, ctr and shims and docker-registry; DIR/forky/bin and DIR/v2/bin have
// containerd 2 and its ctr and shim; DIR/peers/bin has what is compared with.
type Programs struct{ dir string }

// EnvPrograms names the directory of the programs when it is not .cache/stack at
// the root of the repository.
const EnvPrograms = "STACK_DIR"

// FindPrograms finds what scripts/stack.sh has installed, from the working
// directory or one above it. The error says how to get what is not there.
func FindPrograms() (Programs, error) {
	if dir := os.Getenv(EnvPrograms); dir != "" {
		return Programs{dir}, nil
	}
	at, err := os.Getwd()
	if err != nil {
		return Programs{}, err
	}
	for ; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			dir := filepath.Join(at, ".cache", "stack")
			if _, err := os.Stat(dir); err != nil {
				return Programs{}, fmt.Errorf("the container stack is not installed: run scripts/stack.sh: %w", err)
			}
			return Programs{dir}, nil
		}
		if at == filepath.Dir(at) {
			return Programs{}, errors.New("the container stack is not found: neither " + EnvPrograms + " nor a go.mod above the working directory")
		}
	}
}

// Path is the path of a program, "debian/ctr" for example.
func (p Programs) Path(name string) (string, error) {
	group, base := filepath.Split(name)
	path := filepath.Join(p.dir, group, "bin", base)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is not installed: run scripts/stack.sh: %w", name, err)
	} else if err != nil {
		return "", err
	}
	return path, nil
}
