package listen

import (
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A goroutine that is about to return runs again if the gate is opened or restarted.
// Otherwise nothing would take the socket's clients any more.
func TestGateRunsAgain(t *testing.T) {
	for name, again := range map[string]func(*gate) bool{
		"restart": (*gate).restart,
		"open":    func(g *gate) bool { g.suspend(); return g.open() },
	} {
		t.Run(name, func(t *testing.T) {
			var g gate
			if !g.open() {
				t.Fatal("no goroutine is started")
			}
			calls := 0
			g.run(func() {
				if calls++; calls == 1 && again(&g) {
					t.Error("a second goroutine is started")
				}
			})
			if calls != 2 {
				t.Errorf("take was called %d times", calls)
			}
			if !g.stopped() {
				t.Error("the goroutine has not stopped")
			}
			if !again(&g) {
				t.Error("no goroutine is started after the first one has returned")
			}
			g.run(func() { calls++ })
			if calls != 3 || !g.stopped() {
				t.Errorf("take was called %d times, stopped is %v", calls, g.stopped())
			}
		})
	}
}

// A socket has not stopped if a call of readable starts a goroutine while stopped looks
// at one after the other.
func TestTCPStoppedWhileStarting(t *testing.T) {
	relaytest.NoLeaks(t)
	var socket tcpSocket
	socket.watched.mu.Lock()
	socket.watched.readers = 1
	stopped := make(chan bool, 1)
	go func() { stopped <- socket.stopped() }()
	relaytest.Eventually(t, "stopped to wait for the lock", func() bool {
		for _, stack := range relaytest.GoroutineStacks() {
			if strings.Contains(stack, "tcpSocket).stopped") && strings.Contains(stack, "sync.(*Mutex).Lock") {
				return true
			}
		}
		return false
	})
	socket.gate.restart()
	socket.watched.readers = 0
	socket.watched.mu.Unlock()
	if relaytest.Receive(t, "the result", stopped) {
		t.Error("a socket with a goroutine is said to have stopped")
	}
}
