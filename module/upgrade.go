package module

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/listen"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/takeover"
	"github.com/async-relay/caddy-relay/module/api"
)

// This file starts a new process that replaces this one. See package takeover for the
// order of events and for what happens if a step fails. File takeover.go has the side
// of the new process.

// takeoverVariable is set in the environment of a process that replaces another one,
// to the number of the descriptor of their conversation.
const takeoverVariable = "RELAY_TAKEOVER_FD"

var takeoverTimeouts = takeover.Timeouts{Ready: time.Minute, Step: 10 * time.Second}

// killAfter is how long a new process that has failed may take to exit.
const killAfter = 5 * time.Second

// upgrades allows one upgrade at a time.
var upgrades upgrade

// upgrade is the upgrade that is in progress, if any.
type upgrade struct {
	mu      sync.Mutex // guards the fields below
	running bool
	by      int         // the process that has replaced this one; 0: none
	process *os.Process // the new process, until it has taken over
}

// Reasons why an upgrade cannot begin.
var (
	errUpgradeRunning = errors.New("another upgrade is in progress")
	errUpgradeExiting = errors.New("the process is exiting")
	errUpgradePID1    = errors.New("the process has the PID 1, whose end would end the new process too: replace the container instead")
	errUpgradeSystem  = fmt.Errorf("processes can replace each other on Linux only, this is %s: restart instead", runtime.GOOS)
)

// begin begins an upgrade unless there is a reason against it.
func (u *upgrade) begin() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case runtime.GOOS != "linux":
		return errUpgradeSystem
	case os.Getpid() == 1:
		return errUpgradePID1
	case caddy.Exiting():
		return errUpgradeExiting
	case u.by != 0:
		return fmt.Errorf("this process was replaced by process %d already", u.by)
	case u.running:
		return errUpgradeRunning
	}
	u.running = true
	return nil
}

// end ends an upgrade. by is the new process; 0: the upgrade has failed.
func (u *upgrade) end(by int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.running, u.by, u.process = false, by, nil
}

// setProcess records the new process, unless this one is exiting.
func (u *upgrade) setProcess(process *os.Process) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if caddy.Exiting() {
		return errUpgradeExiting
	}
	u.process = process
	return nil
}

// abort ends a new process that has not taken over yet.
func (u *upgrade) abort() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.process != nil {
		_ = u.process.Kill()
	}
}

// run replaces this process. When it returns without an error, the new process serves
// all new clients, and this one exits when its relays have ended.
func (u *upgrade) run() (api.Upgrade, error) {
	if err := u.begin(); err != nil {
		return api.Upgrade{}, err
	}
	began := time.Now()
	pid, err := u.replace()
	u.end(pid)
	if err != nil {
		processLog().Error("upgrade failed, this process continues", zap.Error(err))
		return api.Upgrade{}, err
	}
	leave(pid)
	done := api.Upgrade{OldPID: os.Getpid(), NewPID: pid, Seconds: time.Since(began).Seconds()}
	done.TCP, done.UDP, done.Timeout = remaining()
	processLog().Info("replaced by another process", zap.Int("pid", pid), zap.Duration("duration", time.Since(began)),
		zap.Int("tcp", done.TCP), zap.Int("udp", done.UDP))
	go finish() // exits
	return done, nil
}

// replace starts the new process and gives it the sockets.
func (u *upgrade) replace() (pid int, err error) {
	conn, far, err := takeover.NewConns()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	cmd := started.command(far)
	processLog().Info("starting the process that replaces this one", zap.String("program", cmd.Path), zap.Strings("args", cmd.Args[1:]))
	start, wait := cmd.Start, cmd.Wait
	if isSupervised() {
		start = func() error { return netio.StartSibling(cmd) }
		wait = func() error { return netio.AwaitExit(cmd.Process) }
	}
	err = start()
	_ = far.Close()
	if err != nil {
		return 0, fmt.Errorf("start of %s: %w", cmd.Path, err)
	}
	exited := make(chan struct{})
	go func() { // returns when the new process exits, or with this one
		if err := wait(); !errors.Is(err, os.ErrNoHandle) {
			close(exited)
		}
	}()
	kill := func() {
		_ = cmd.Process.Kill()
		select {
		case <-exited:
		case <-time.After(killAfter): // stuck in the kernel; the signal ends it before it runs again
		}
	}
	if err = u.setProcess(cmd.Process); err == nil {
		err = takeover.Give(conn, takeover.Hello{PID: os.Getpid(), PIDFile: started.pidFile}, giver{sockets}, takeoverTimeouts, kill)
	}
	if err == nil {
		return cmd.Process.Pid, nil
	}
	conn.Close()
	select {
	case <-exited:
	case <-time.After(killAfter):
		kill()
	}
	return 0, err
}

// command returns the command of a new process. conversation is its end of the
// conversation.
func (i invocation) command(conversation *os.File) *exec.Cmd {
	cmd := exec.Command(i.path, i.args...)
	cmd.Dir = i.dir
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = append(cmd.ExtraFiles, activated...) // with the numbers that they have here
	cmd.ExtraFiles = append(cmd.ExtraFiles, conversation)
	env := i.env
	if len(activated) == 0 { // what it says of passed sockets is for another process, and the new one takes it for its own
		env = withoutVariable(env, "LISTEN_FDS")
	}
	cmd.Env = append(slices.Clip(env), fmt.Sprintf("%s=%d", takeoverVariable, firstActivated+len(activated)))
	return cmd
}

// leave ends the config of this process, which was replaced by another one, with all
// listeners and the admin endpoint. Relays continue.
func leave(pid int) {
	replaced.Store(true)
	notifyMainPID(pid)
	if started.pidFile != "" {
		// Caddy removes its pidfile if this process gets SIGTERM. It is the new process's
		// file now, so Caddy gets another one to remove. It is in the same directory,
		// where other users cannot put a link in its place.
		if err := caddy.PIDFile(oldPIDFile()); err != nil {
			processLog().Warn("pidfile not replaced", zap.String("file", oldPIDFile()), zap.Error(err))
		}
	}
	if err := caddy.Load([]byte(`{"admin":{"disabled":true,"config":{"persist":false}}}`), true); err != nil {
		processLog().Error("config not ended", zap.Error(err))
	}
}

// oldPIDFile returns the pidfile of this process after another one has replaced it.
func oldPIDFile() string { return fmt.Sprintf("%s.%d", started.pidFile, os.Getpid()) }

// remaining returns the relays of this process and how long they may continue.
func remaining() (tcp, udp int, timeout string) {
	var longest time.Duration
	services.Range(func(_, value any) bool {
		s := value.(*service)
		if t, u := s.Active(); t+u > 0 {
			tcp, udp = tcp+t, udp+u
			longest = max(longest, s.shutdownTimeout())
		}
		return true
	})
	return tcp, udp, longest.String()
}

func postUpgrade(r *http.Request) (any, error) {
	logOperation(r, "upgrade")
	done, err := upgrades.run()
	switch {
	case err == nil:
		return done, nil
	case errors.Is(err, errUpgradeSystem):
		return nil, apiErrorf(http.StatusNotImplemented, "%w", err)
	default:
		return nil, apiErrorf(http.StatusConflict, "upgrade: %w", err)
	}
}

// giver implements takeover.Giver.
type giver struct{ *listen.Sockets }

// Shared implements takeover.Giver.
func (g giver) Shared() ([]takeover.Socket, error) {
	listening := make(map[listen.SocketAddress]bool)
	for _, at := range g.Listening() {
		listening[at] = true
	}
	shared, err := g.Sockets.Shared()
	list := make([]takeover.Socket, 0, len(shared))
	for _, socket := range shared {
		list = append(list, takeover.Socket{Network: socket.Network, At: socket.At, Listening: listening[socket.SocketAddress], File: socket.File})
	}
	return list, err
}

// State implements takeover.Giver. The memory is not written from here on, because the
// new process may write it.
func (giver) State() []byte {
	pauseMemory(true)
	return handedOver()
}

// Resume implements takeover.Giver.
func (g giver) Resume() {
	g.Sockets.Resume()
	pauseMemory(false)
}

// Interface guard.
var _ takeover.Giver = giver{}
