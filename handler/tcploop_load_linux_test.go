package handler

import (
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// pairOf is what carries a client of a rig's.
func (r *rig) pairOf(client *net.TCPConn) *pair {
	r.t.Helper()
	t := r.relayOf(client.LocalAddr().String(), client.RemoteAddr().String())
	if t == nil {
		r.t.Fatal("no such relay")
		panic("unreachable")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.carrier.(*pair)
}

// holding is how much a relay has taken from each side and not passed on.
func (p *pair) holding() (up, down int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.halves[clientSide].holds(), p.halves[backendSide].holds()
}

// Who does not read holds one buffer of the relay's a way, or one pipe, however
// much the other would like to send, and nothing of that is lost.
func TestBackpressure(t *testing.T) {
	for name, most := range map[string]int{"splice": netio.BufferSize, "": pipeSize} {
		t.Run("without "+name, func(t *testing.T) {
			t.Setenv("RELAY_DISABLE", name)
			r, client, backend, _ := established(t, onOneLoop())
			say(t, client, "hello")
			hear(t, backend, "hello")
			p := r.pairOf(client)
			sendUntilFull(t, client)
			sendUntilFull(t, backend)
			up, down := p.holding()
			if up == 0 || down == 0 || up > most || down > most {
				t.Errorf("holds %d and %d bytes, want some and at most %d", up, down, most)
			}
		})
	}
}

// A bulk flow that never runs dry leaves the others of its loop their turns.
func TestBulkStarvesNobody(t *testing.T) {
	for name, disable := range map[string]string{"spliced": "", "copied": "splice"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("RELAY_DISABLE", disable)
			noLeaks(t)
			server, conns := handOver(t, "127.0.0.1:0")
			r := newRig(t, []string{server.String()}, onOneLoop())
			for range 2 {
				client, _ := r.client()
				backend := receiveFrom(t, "a connection", conns)
				stop := make(chan struct{})
				over := make(chan struct{}, 2)
				go func() { // ends when stop is closed
					defer func() { over <- struct{}{} }()
					piece := make([]byte, 1<<20)
					for {
						select {
						case <-stop:
							_ = client.CloseWrite()
							return
						default:
							_, _ = client.Write(piece)
						}
					}
				}()
				go func() { // ends with the way up
					_, _ = io.Copy(io.Discard, backend)
					over <- struct{}{}
				}()
				defer func() { close(stop); <-over; <-over }()
			}
			chatter, _ := r.client()
			backend := receiveFrom(t, "a connection", conns)
			tally := r.service.tallies.get(r.service.Pool.Backend(server.String()), 0)
			eventually(t, "the bulk", func() bool { return tally.bytesUp.Load() > 1<<20 })
			for range 300 {
				say(t, chatter, "question")
				hear(t, backend, "question")
				say(t, backend, "answer")
				hear(t, chatter, "answer")
			}
		})
	}
}

// Thousands at rest cost no goroutine, no buffer and little memory, and leave
// nothing behind.
func TestManyIdleRelays(t *testing.T) {
	relays := min(5000, descriptorRoom()/5)
	if testing.Short() {
		relays = 500
	}
	noLeaks(t)
	backends, err := net.Listen("tcp", lo(t, 1)+":0")
	check(t, err)
	defer backends.Close()
	front, err := net.Listen("tcp", lo(t, 2)+":0")
	check(t, err)
	defer front.Close()
	r := newRig(t, []string{backends.Addr().String()}, func(o *Options) { o.IdleTimeout = time.Hour }, onOneLoop())
	var ends []net.Conn
	connect := func() {
		near := dialTCP(t, front.Addr().String())
		far, err := front.Accept()
		check(t, err)
		r.relay.ServeTCP(t.Context(), plain(far.(*net.TCPConn)))
		backend, err := backends.Accept()
		check(t, err)
		say(t, near, "hello")
		hear(t, backend, "hello")
		ends = append(ends, near, backend)
	}
	connect() // and so the loop's own
	goroutines, files, memory := runtime.NumGoroutine(), descriptors(t), inUse()
	for range relays {
		connect()
	}
	r.logs.TakeAll()
	if more := runtime.NumGoroutine() - goroutines; more > relays/100 {
		t.Errorf("%d goroutines more", more)
	}
	each := (inUse() - memory) / int64(relays)
	t.Logf("%d B each, the test's two connections included", each)
	if each > 8<<10 {
		t.Errorf("%d B each", each)
	}
	if more := descriptors(t) - files; more != 4*relays {
		t.Errorf("%d descriptors for %d relays and their peers", more, relays)
	}
	if tcp, _ := r.service.Active(); tcp != relays+1 {
		t.Errorf("%d are active", tcp)
	}
	for _, conn := range ends {
		check(t, conn.Close())
	}
	eventually(t, "the end of all", func() bool { tcp, _ := r.service.Active(); return tcp == 0 })
	eventually(t, "all descriptors", func() bool { return descriptors(t) < files })
	if count := r.relay.wheel.size(); count != 0 {
		t.Errorf("%d are in the wheel", count)
	}
}

func (w *wheel) size() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// descriptorRoom is how many descriptors this process may have.
func descriptorRoom() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int(min(limit.Cur, 1<<30))
}
