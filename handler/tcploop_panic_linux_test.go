package handler

import (
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// injected has the loop panic over one client's relay, once, at the next of its
// events when armed.
func injected(l *tcpLoop) (arm func(client string)) {
	var of atomic.Pointer[string]
	l.inject = func(p *pair) {
		if client := of.Load(); client != nil && p.relay.client.String() == *client && of.CompareAndSwap(client, nil) {
			panic("injected")
		}
	}
	return func(client string) { of.Store(&client) }
}

// A panic on a loop ends the relay it is in, with resets and a line, and the
// loop goes on with the others.
func TestPanicOnALoopEndsOneRelay(t *testing.T) {
	for _, name := range []string{"plain", "half-closed", "with bytes in a pipe"} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			server, conns := handOver(t, "127.0.0.1:0")
			engine := oneLoop()
			arm := injected(engine.tcp[0])
			r, calm := newRig(t, []string{server.String()}, with(engine)), newRig(t, []string{server.String()}, with(engine))
			other, _ := calm.client()
			otherBackend := receiveFrom(t, "a connection", conns)
			client, done := r.client()
			backend := receiveFrom(t, "a connection", conns)
			say(t, client, "hello")
			hear(t, backend, "hello")

			switch name {
			case "half-closed":
				check(t, client.CloseWrite())
				wantEnding(t, "the backend", backend, "FIN")
			case "with bytes in a pipe":
				sendUntilFull(t, client)
			}
			arm(client.LocalAddr().String())
			say(t, backend, "hello")
			wantEnding(t, "the client", client, "RST")
			if name == "plain" {
				wantEnding(t, "the backend", backend, "RST")
			}
			receiveFrom(t, "the end", done)
			r.wantReasons(panicked)
			wantPanicLine(t, r, "injected")
			if tcp, _ := r.service.Active(); tcp != 0 {
				t.Errorf("%d are active", tcp)
			}
			use := r.service.Stats(time.Now()).Backends[0].Use[0]
			if use.Active != 0 || use.Connections != 1 {
				t.Errorf("booked: %+v", use)
			}
			if open, idle := engine.tcp[0].pipes.count(); open != idle {
				t.Errorf("%d pipes are open, %d of them idle", open, idle)
			}

			say(t, other, "calm")
			hear(t, otherBackend, "calm")
			again, _ := r.client()
			say(t, again, "again")
			hear(t, receiveFrom(t, "a connection", conns), "again")
		})
	}
}

// Nor is one left behind that panics while it waits for its backend.
func TestPanicWhileConnecting(t *testing.T) {
	r, silent, wantNothingLeft := slow(t)
	arm := injected(r.relay.opts.TCP.(*loops).tcp[0])
	near, far := tcpPair(t)
	arm(near.LocalAddr().String())
	p := r.pairFor(far)
	at := silent.listener.Addr().(*net.TCPAddr).AddrPort()
	fd, _, err := connectTCP(at)
	check(t, err)
	_, b := r.outcomeOf(silent.String())
	p.waitForBackend(&connecting{begun: b, ctx: t.Context(), fd: fd})
	p.mu.Lock()
	id := p.ends[backendSide].id
	p.mu.Unlock()
	p.event(id, 0, nil)
	p.cut(clientReset) // nothing, or the end if the attempt loop had it already
	wantEnding(t, "the client", near, "RST")
	eventually(t, "the end", func() bool { tcp, _ := r.service.Active(); return tcp == 0 })
	r.wantLines("relay ended", 1)
	check(t, near.Close())
	wantNothingLeft()
}
