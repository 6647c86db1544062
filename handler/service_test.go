package handler

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

func failToOpen(netip.AddrPort) error { return errRefused }

func TestWaitIdle(t *testing.T) {
	t.Run("no relays: returns nil, also if the context has ended", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		relaytest.Check(t, r.service.WaitIdle(ctx))
	})
	t.Run("end of the context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53"})
			r.deliver(1, new(udpClient), "a")
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errNoSuchHost)
			defer cancel()
			if err := r.service.WaitIdle(ctx); !errors.Is(err, errNoSuchHost) {
				t.Errorf("%v", err)
			}
			if n := r.service.ends.subscribers.Load(); n != 0 || len(r.service.ends.channels) != 0 {
				t.Errorf("%d subscribers left", n)
			}
		})
	})
	t.Run("end of the last relay or session", func(t *testing.T) {
		for _, last := range []upstream.Network{upstream.TCP, upstream.UDP} {
			synctest.Test(t, func(t *testing.T) {
				r := newUDPRig(t, []string{"192.0.2.1:53"})
				r.deliver(1, new(udpClient), "a")
				r.deliver(2, new(udpClient), "a")
				relay := &tcpRelay{relay: r.relay, client: new(net.TCPAddr)}
				r.service.enter(relay, false)
				idle := make(chan struct{})
				for range 3 { // each waiter is notified
					go func() {
						relaytest.Check(t, r.service.WaitIdle(context.Background()))
						idle <- struct{}{}
					}()
				}
				ends := []func(){
					func() { r.session(1).end(stream.IdleTimeout) },
					func() { r.session(2).end(stream.IdleTimeout) },
					func() { r.service.leave(relay) },
				}
				if last == upstream.UDP {
					ends[0], ends[2] = ends[2], ends[0]
				}
				for _, end := range ends {
					synctest.Wait()
					select {
					case <-idle:
						t.Fatal("idle too early")
					default:
					}
					end()
				}
				for range 3 {
					<-idle // a missed notification would deadlock the bubble
				}
			})
		}
	})
	t.Run("no end is missed", func(t *testing.T) {
		relaytest.NoLeaks(t)
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		r.engine.quiet = true
		for i := range 2000 {
			var ending sync.WaitGroup
			if i%2 == 0 {
				relay := &tcpRelay{relay: r.relay, client: new(net.TCPAddr)}
				r.service.enter(relay, false)
				ending.Go(func() { r.service.leave(relay) })
			} else {
				r.deliver(1, new(udpClient), "a")
				s := r.session(1)
				ending.Go(func() { s.end(stream.IdleTimeout) })
			}
			ctx, cancel := context.WithTimeout(t.Context(), relaytest.Limit)
			if err := r.service.WaitIdle(ctx); err != nil {
				t.Fatalf("missed end %d", i)
			}
			cancel()
			ending.Wait()
		}
	})
}

// Cut ends active relays; new clients are still served.
func TestCut(t *testing.T) {
	relaytest.NoLeaks(t)
	server, conns := acceptTCP(t, "127.0.0.1:0")
	r := newUDPRig(t, []string{server.String()})
	first, done := r.client()
	backend := relaytest.Receive(t, "a connection", conns)
	r.waitLinked(1)
	udp := new(udpClient)
	r.deliver(1, udp, "a")

	r.service.Cut()
	wantEnding(t, "the client", first, "RST")
	wantEnding(t, "the backend", backend, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	udp.wantReleased(t, 1)
	r.wantReasons(stream.Removed, stream.Removed)

	second, _ := r.client()
	backend = relaytest.Receive(t, "a connection", conns)
	relaytest.Write(t, second, "still served")
	relaytest.WantRead(t, backend, "still served")
	r.deliver(1, udp, "b")
	r.wantSessions(1)
	r.service.Cut()
	r.service.Close()
}

func TestClose(t *testing.T) {
	relaytest.NoLeaks(t)
	server, conns := acceptTCP(t, "127.0.0.1:0")
	r := newUDPRig(t, []string{server.String()})
	client, done := r.client()
	backend := relaytest.Receive(t, "a connection", conns)
	r.waitLinked(1)
	r.deliver(1, new(udpClient), "a")
	r.service.Close()
	wantEnding(t, "the client", client, "RST")
	wantEnding(t, "the backend", backend, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	r.wantReasons(stream.ServiceClosed, stream.ServiceClosed)
	late, done := r.client()
	wantEnding(t, "a late client", late, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	if server.count() != 1 {
		t.Error("the late client reached the backend")
	}
}

// A relay that is cut before it has a mover ends once it has one.
func TestCutBeforeTheMoverIsSet(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newRig(t, []string{"192.0.2.1:80"})
	client, far := relaytest.TCPPair(t)
	relay := &tcpRelay{relay: r.relay, client: far.RemoteAddr(), local: far.LocalAddr()}
	if r.service.enter(relay, false) != nil {
		t.Fatal("not admitted")
	}
	relay.cut(stream.Shutdown)
	relay.setMover(stream.NewMover(plainClient(far), relay, r.relay.wheel))
	wantEnding(t, "the client", client, "RST")
	r.wantReasons(stream.Shutdown)
	if tcp, _ := r.service.Active(); tcp != 0 {
		t.Errorf("%d active", tcp)
	}
}

// A connection that panics while it is cut does not prevent the cut of others.
func TestCutSurvivesAPanic(t *testing.T) {
	relaytest.NoLeaks(t)
	server, conns := acceptTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{server.String()})
	for range 3 {
		_, far := relaytest.TCPPair(t)
		r.serve(t.Context(), stream.Client{Conn: panickingConn{Conn: far, close: true}, CloseWriter: far, Socket: far})
		relaytest.Receive(t, "a connection", conns)
	}
	r.waitLinked(3)
	r.service.Cut()
	relaytest.Check(t, r.service.WaitIdle(t.Context()))
	r.wantLines("relay ended by a panic", 3)

	// A late client whose connection panics is reset too.
	r.service.Close()
	near, far := relaytest.TCPPair(t)
	relaytest.Receive(t, "the end of the relay", r.serve(t.Context(), stream.Client{Conn: panickingConn{Conn: far, close: true}, Socket: far}))
	wantEnding(t, "a late client", near, "RST")
}

// waitLinked waits until the given number of TCP relays are linked to their
// backends. Before that, a cut may show the backend a FIN.
func (r *rig) waitLinked(want int) {
	r.t.Helper()
	relaytest.Eventually(r.t, "links", func() bool {
		r.service.mu.Lock()
		defer r.service.mu.Unlock()
		n := 0
		for t := r.service.relays; t != nil; t = t.next {
			t.mu.Lock()
			if t.backend != nil {
				n++
			}
			t.mu.Unlock()
		}
		return n == want
	})
}

// Clients that arrive during cuts are served or reset, and none are left at the
// end.
func TestCutWhileClientsArrive(t *testing.T) {
	relaytest.NoLeaks(t)
	server := serveTCP(t, "127.0.0.1:0", echo)
	backend := relaytest.NewUDPBackend(t, relaytest.Echo)
	overEngines(t, func(t *testing.T, engine dgram.Engine) {
		for _, backend := range []string{server.String(), backend.Addr} {
			r := newRig(t, []string{backend}, withUDP(engine), func(o *Options) {
				if _, plain := engine.(dgram.Goroutines); plain {
					o.TCP = nil
				}
			})
			var clients sync.WaitGroup
			for i := range 8 {
				clients.Go(func() {
					for n := range 40 {
						r.deliver(i*1000+n, new(udpClient), "a")
						near, far := relaytest.TCPPair(t)
						done := make(chan struct{})
						go func() {
							defer close(done)
							r.relay.ServeTCP(t.Context(), plainClient(far))
						}()
						if _, err := near.Write([]byte("a")); err == nil {
							_, _ = near.Read(make([]byte, 1))
						}
						_ = near.Close()
						relaytest.Receive(t, "the end of a relay", done)
					}
				})
			}
			for range 20 {
				r.service.Cut()
				time.Sleep(time.Millisecond)
			}
			r.service.Drain(time.Millisecond)
			if tcp, udp := r.service.Active(); tcp+udp > 0 {
				t.Errorf("%d TCP, %d UDP left", tcp, udp)
			}
			clients.Wait()
			r.wantLines("relay ended by a panic", 0)
		}
	})
}
