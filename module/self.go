package module

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// invocation is how this process was started.
type invocation struct {
	path    string // of the program, as it was called: a symbolic link may lead to another version later
	args    []string
	env     []string
	dir     string
	pidFile string // of --pidfile, or of the process that this one has replaced; "": none
}

// started is how this process was started. It is set before the command runs, which
// may change the environment.
var started invocation

// oncePerProcess are the flags of `caddy run` that are for the first process only. The
// new one writes the pidfile when it has taken over, and nothing waits for its start.
var oncePerProcess = []string{"--pidfile", "--pingback"}

// recordInvocation sets started.
func recordInvocation() {
	started = invocation{path: os.Args[0], env: os.Environ()}
	started.dir, _ = os.Getwd()
	switch found, err := exec.LookPath(os.Args[0]); {
	case err != nil: // started under another name
		started.path, _ = os.Executable()
	case filepath.IsAbs(found):
		started.path = found
	default:
		started.path = filepath.Join(started.dir, found)
	}
	for i := 1; i < len(os.Args); i++ {
		name, value, joined := strings.Cut(os.Args[i], "=")
		if !slices.Contains(oncePerProcess, name) {
			started.args = append(started.args, os.Args[i])
			continue
		}
		if !joined && i+1 < len(os.Args) {
			i++
			value = os.Args[i]
		}
		if name == "--pidfile" {
			started.pidFile = value
		}
	}
}

// runsConfig reports whether a command runs a config until the process ends.
func runsConfig(args []string) bool {
	for _, command := range [][]string{{"run"}, {"async-relay"}, {"relay", "run"}} {
		if len(args) >= len(command) && slices.Equal(args[:len(command)], command) {
			return true
		}
	}
	return false
}
