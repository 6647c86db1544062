package module

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/listen"
	"github.com/async-relay/caddy-relay/internal/takeover"
	"github.com/async-relay/caddy-relay/internal/version"
	"github.com/async-relay/caddy-relay/module/command"
)

// This file has the side of a new process that replaces an old one, see upgrade.go.

// rootCommand is the command `caddy`. It is set before any command runs.
var rootCommand func() *cobra.Command

// offerTimeout bounds the wait for the sockets of the old process.
const offerTimeout = 10 * time.Second

// configPoll is the interval at which a new process looks whether its config runs.
const configPoll = 2 * time.Millisecond

// receiveSockets receives the sockets of the service manager, and those of an old
// process if this process replaces one. It must be called before the first config is
// loaded.
func receiveSockets() {
	number, err := strconv.Atoi(os.Getenv(takeoverVariable))
	if err != nil {
		inheritSockets()
		return
	}
	_ = os.Unsetenv(takeoverVariable)
	started.env = withoutVariable(started.env, takeoverVariable)
	if os.Getenv("LISTEN_PID") != "" { // the old process has passed on what it got
		_ = os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	}
	inheritSockets()
	conn, err := takeover.ConnOf(os.NewFile(uintptr(number), "conversation with the old process"))
	if err != nil {
		fatal("takeover not begun", err)
	}
	offer, err := takeover.Receive(conn, offerTimeout)
	if err != nil {
		fatal("takeover not begun", err)
	}
	started.pidFile = offer.PIDFile
	for _, socket := range offer.Sockets {
		sockets.Expect(listen.Inherited{SocketAddress: listen.SocketAddress{Network: socket.Network, At: socket.At}, File: socket.File})
	}
	takingOver.Store(true)
	reportFailure(rootCommand(), offer)
	go takeOver(conn, offer) // returns when the sockets are taken
}

// reportFailure makes the command that was called report its error to the old process,
// and lets it know that there is one.
func reportFailure(root *cobra.Command, offer *takeover.Offer) {
	called, _, err := root.Find(os.Args[1:])
	if err != nil || called.RunE == nil {
		return
	}
	called.SetContext(command.WithReplaces(called.Context()))
	run := called.RunE
	called.RunE = func(cmd *cobra.Command, args []string) error {
		err := run(cmd, args)
		if err != nil {
			offer.Fail(err)
		}
		return err
	}
}

// takeOver waits for the config and takes the sockets.
func takeOver(conn *takeover.Conn, offer *takeover.Offer) {
	defer conn.Close()
	defer takingOver.Store(false)
	for caddy.ActiveContext().Context == nil {
		time.Sleep(configPoll)
	}
	began := time.Now()
	if err := allListenedOn(offer); err != nil {
		offer.Fail(err)
		fatal("takeover failed", err)
	}
	alone, err := offer.Take(&taker{Sockets: sockets})
	if err != nil {
		fatal("takeover failed", err)
	}
	if offer.PIDFile != "" {
		if err := caddy.PIDFile(offer.PIDFile); err != nil {
			processLog().Error("pidfile not written", zap.String("file", offer.PIDFile), zap.Error(err))
		}
	}
	if alone {
		processLog().Warn("the old process was killed during the takeover, its clients are lost", zap.Int("pid", offer.PID))
		return
	}
	processLog().Info("replaced another process", zap.Int("pid", offer.PID), zap.String("version", version.Get().Relay), zap.Int("sockets", len(offer.Sockets)), zap.Duration("duration", time.Since(began)))
}

// allListenedOn returns an error if the config does not listen on a socket that the old
// process listens on. Its clients would be lost.
func allListenedOn(offer *takeover.Offer) error {
	listening := make(map[listen.SocketAddress]bool)
	for _, at := range sockets.Listening() {
		listening[at] = true
	}
	var missing []string
	for _, socket := range offer.Sockets {
		if at := (listen.SocketAddress{Network: socket.Network, At: socket.At}); socket.Listening && !listening[at] {
			missing = append(missing, "relay+"+at.Network+"/"+net.JoinHostPort(at.At.Addr().String(), strconv.Itoa(int(at.At.Port()))))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("the config that the new process has loaded does not list %s, but the running one does: reload the running process with that config first", strings.Join(missing, ", "))
}

// fatal ends this process, because the old one continues.
func fatal(message string, err error) {
	processLog().Error(message, zap.Error(err))
	logs.Flush(logFlushTimeout)
	os.Exit(caddy.ExitCodeFailedStartup)
}

// taker implements takeover.Taker.
type taker struct {
	*listen.Sockets
	restored bool // the old process has handed over its state
}

// Follow implements takeover.Taker.
func (t *taker) Follow(link *takeover.Link, keys []takeover.Key) error {
	return t.Sockets.Follow(link, keys, processLog())
}

// Restore implements takeover.Taker.
func (t *taker) Restore(state []byte) {
	t.restored = true
	takeHandedOver(state)
}

// Begin implements takeover.Taker. If the old process was killed before it handed over
// its state, that of its memory is used.
func (t *taker) Begin() {
	if !t.restored {
		takeMemory()
	}
	t.Sockets.Begin()
}

// withoutVariable returns an environment without a variable.
func withoutVariable(env []string, name string) []string {
	kept := make([]string, 0, len(env))
	for _, entry := range env {
		if !strings.HasPrefix(entry, name+"=") {
			kept = append(kept, entry)
		}
	}
	return kept
}

// Interface guard.
var _ takeover.Taker = (*taker)(nil)
