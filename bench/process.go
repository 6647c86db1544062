//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// child is a process that the benchmark has started. It ends with the benchmark.
type child struct {
	cmd  *exec.Cmd
	in   io.Closer // standard input, closed by stop; nil if the caller gave one
	out  io.ReadCloser
	log  *os.File
	once sync.Once
}

// running holds the children to stop when the benchmark is interrupted. Processes
// that a child has started, such as nginx's workers, would otherwise outlive it.
var running sync.Map

// starting is held for reading while a child is started, and for writing from stopAll on.
var starting sync.RWMutex

// stopAll kills all children. The bench starts no more of them: a goroutine that tries to
// is blocked until the process ends.
func stopAll() {
	starting.Lock()
	running.Range(func(key, _ any) bool {
		_ = syscall.Kill(-key.(int), syscall.SIGKILL)
		return true
	})
}

// startChild starts a program whose standard input stays open until stop.
func startChild(dir string, argv ...string) (*child, error) {
	return startChildWith(dir, nil, nil, argv...)
}

// startChildWith starts a program with a standard input, unless in is nil, and with
// more open files, from number 3 on.
func startChildWith(dir string, in io.Reader, files []*os.File, argv ...string) (*child, error) {
	starting.RLock()
	defer starting.RUnlock()
	log, err := os.CreateTemp(dir, "log-")
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(argv[0], argv[1:]...), log: log}
	c.cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	c.cmd.Stdin, c.cmd.Stderr, c.cmd.ExtraFiles = in, log, files
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if in == nil {
		if c.in, err = c.cmd.StdinPipe(); err != nil {
			return nil, err
		}
	}
	if c.out, err = c.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		log.Close()
		return nil, err
	}
	running.Store(c.cmd.Process.Pid, nil)
	return c, nil
}

// stop kills the process and those that it has started.
func (c *child) stop() {
	c.once.Do(func() {
		running.Delete(c.cmd.Process.Pid)
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
		if c.in != nil {
			_ = c.in.Close()
		}
		_ = c.cmd.Wait()
		_ = c.log.Close()
	})
}

// errorOutput waits for the process to end and returns the end of what it wrote
// to standard error.
func (c *child) errorOutput() string {
	_, _ = io.Copy(io.Discard, c.out)
	c.stop()
	return c.logged()
}

// logged returns the end of what the process wrote to standard error so far.
func (c *child) logged() string {
	text, err := os.ReadFile(c.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-1000):])
}

// family returns the ids of the process and its children, such as nginx's workers.
func (c *child) family() ([]int, error) {
	children, err := childrenOf(c.cmd.Process.Pid)
	return append([]int{c.cmd.Process.Pid}, children...), err
}

// waitListening waits until the kernel's list of sockets has count on the port of
// the address. A connection attempt instead would be the target's first client.
func (c *child) waitListening(network, addr string, count int) error {
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		table, err := os.ReadFile("/proc/thread-self/net/" + network)
		if err != nil {
			return err
		}
		if listening(string(table), port) >= count {
			time.Sleep(100 * time.Millisecond) // until the rest of the start is done
			return nil
		}
		if stat, err := os.ReadFile(procFile(c.cmd.Process.Pid, "stat")); err == nil && ended(string(stat)) {
			return fmt.Errorf("ended at its start: %s", c.logged())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("not listening on %s after 20s: %s", addr, c.logged())
}

// freePort returns a port that is not in use, below the range that the kernel
// takes client ports from.
func freePort(network string, turn int) (int, error) {
	const first, count = 12_000, 8_000
	for i := range count {
		port := first + (turn*7+i)%count
		addr := net.JoinHostPort(loopback, strconv.Itoa(port))
		var socket io.Closer
		var err error
		if network == "udp" {
			socket, err = net.ListenPacket(network, addr)
		} else {
			socket, err = net.Listen(network, addr)
		}
		if err == nil {
			return port, socket.Close()
		}
	}
	return 0, errors.New("no free port")
}

// takeProfile starts a CPU profile of a Caddy target; wait returns when it has been
// written.
func (b *bench) takeProfile(r row, t target, s setup) (wait func()) {
	var done sync.WaitGroup
	done.Go(func() {
		name := regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(r.name+" "+t.name, "-")
		seconds := int(b.window.Seconds()) + 1
		if err := fetchProfile(s.admin, seconds, filepath.Join(b.profile, name+".pprof")); err != nil {
			fmt.Fprintf(os.Stderr, "\nprofile: %v\n", err)
		}
	})
	return done.Wait
}

func fetchProfile(admin string, seconds int, file string) error {
	answer, err := http.Get(fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", admin, seconds))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, answer.Body)
	return errors.Join(err, out.Close())
}
