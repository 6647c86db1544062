//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// defaultCongestion is the congestion control of TCP in the networks that the bench
// makes. It is Linux's own default.
const defaultCongestion = "cubic"

const (
	congestionFile          = "/proc/sys/net/ipv4/tcp_congestion_control"
	availableCongestionFile = "/proc/sys/net/ipv4/tcp_available_congestion_control"
)

// network is the network that all processes of a run are in, but for those of rows
// with a distant backend.
type network struct {
	own     bool   // a network namespace of the bench
	machine string // the congestion control of the machine's network
}

// fact returns the network in words.
func (n network) fact() string {
	if !n.own {
		return "the machine's network, TCP with " + n.machine
	}
	return fmt.Sprintf("a network namespace of its own, TCP with %s, as Linux by default (this machine: %s)", defaultCongestion, n.machine)
}

// can reports why a row that needs a congestion control cannot be measured.
func (n network) can(use, available string) error {
	switch {
	case !n.own:
		return errors.New("it needs a network namespace of its own, and that needs root")
	case !slices.Contains(strings.Fields(available), use):
		return fmt.Errorf("%s is not in %s", use, availableCongestionFile)
	}
	return nil
}

// The bench has two stages. The first one makes the temporary directory and builds the
// relay into it, which may download modules. Then it makes the network namespace and
// executes its own program again, because a thread can only move itself: the threads of
// the Go runtime stay in the machine's network. The second stage measures. It gets the
// machine's congestion control and the directory through stageVariable.

const (
	stageVariable = "RELAY_BENCH_STAGE"
	dirPrefix     = "relay-bench-"
)

func stageValue(machine, dir string) string { return machine + " " + dir }

// parseStage parses a value of stageVariable. ok is false in the first stage. The
// directory is removed at the end, so its name must be one that the first stage makes.
func parseStage(value string) (n network, dir string, ok bool) {
	machine, dir, _ := strings.Cut(value, " ")
	if machine == "" || !strings.HasPrefix(filepath.Base(dir), dirPrefix) {
		return network{}, "", false
	}
	return network{own: true, machine: machine}, dir, true
}

// beginStage returns the directory of this run, and its network. first is true in the
// first stage, where the network is the machine's.
func beginStage() (n network, dir string, first bool, err error) {
	value := os.Getenv(stageVariable)
	_ = os.Unsetenv(stageVariable) // for the processes that the bench starts
	if n, dir, ok := parseStage(value); ok {
		return n, dir, false, nil
	}
	n.machine = congestion()
	dir, err = os.MkdirTemp("", dirPrefix)
	return n, dir, true, err
}

// nextStage replaces this process by the second stage, in a network namespace of its
// own. If it may not make one, it returns nil, and the thread is in the machine's
// network as before. Its caller's goroutine must be locked to its thread.
func nextStage(n network, dir string) error {
	if err := newNetwork(); err != nil {
		fmt.Fprintln(os.Stderr, "measuring in the machine's network:", err)
		return nil
	}
	// A signal before the second stage handles signals would leave the directory. Ignored
	// ones stay ignored over execve(2).
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), stageVariable+"="+stageValue(n.machine, dir)))
	return fmt.Errorf("executing the bench in its own network: %w", err)
}

// newNetwork moves the thread to a new network namespace, with loopback and the default
// congestion control. All other settings are the kernel's for a new namespace. After an
// error, the thread is where it was.
func newNetwork() error {
	home, err := os.Open(threadNetworks)
	if err != nil {
		return err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("making a network namespace: %w", err)
	}
	err = setCongestion(defaultCongestion) // a new namespace has the machine's
	if err == nil {
		if err = up("lo", ""); err != nil {
			err = fmt.Errorf("switching loopback on: %w", err)
		}
	}
	if err != nil {
		return errors.Join(err, join(home))
	}
	return nil
}

// congestion returns the congestion control of the thread's network, or "?".
func congestion() string {
	text, err := os.ReadFile(congestionFile)
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(text))
}

// setCongestion sets the congestion control of the thread's network. It applies to the
// sockets that are opened or accepted from then on.
func setCongestion(name string) error {
	if err := os.WriteFile(congestionFile, []byte(name), 0); err != nil {
		return fmt.Errorf("setting the congestion control %s: %w", name, err)
	}
	return nil
}
