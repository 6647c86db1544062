package handler

import (
	"crypto/sha256"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// pour sends random bytes one way, in the end a FIN, and compares what comes
// out. Every now and then the reader stalls.
func pour(from, to *net.TCPConn, size int64, stalls bool) <-chan string {
	over := make(chan string, 1)
	var sent [sha256.Size]byte
	var failed error
	var sending sync.WaitGroup
	sending.Go(func() { // ends with the last byte, or with the connection
		sent, failed = sendRandom(from, size)
		_ = from.CloseWrite()
	})
	go func() { // the same
		var reader io.Reader = to
		if stalls {
			reader = &staller{Reader: to, every: size / 4}
		}
		received, n, err := receiveRandom(reader)
		sending.Wait()
		switch {
		case err != nil || failed != nil:
			over <- "failed"
		case n != size || sent != received:
			over <- "other bytes"
		default:
			over <- "the same"
		}
	}()
	return over
}

// staller stops reading for long enough to have everything before it fill up.
type staller struct {
	io.Reader
	every, read int64
}

func (s *staller) Read(b []byte) (int, error) {
	if s.read >= s.every {
		s.read = 0
		time.Sleep(100 * time.Millisecond)
	}
	n, err := s.Reader.Read(b)
	s.read += int64(n)
	return n, err
}

// Bulk both ways at once with readers that stall and go on comes whole, spliced
// or copied; afterwards no pipe is lent, and after the loop's end none is open.
func TestSplicedBulk(t *testing.T) {
	const size = 8 << 20
	for name, disable := range map[string]string{"spliced": "", "copied": "splice"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("RELAY_DISABLE", disable)
			noLeaks(t)
			server, conns := handOver(t, "127.0.0.1:0")
			engine := oneLoop()
			r := newRig(t, []string{server.String()}, with(engine))
			client, done := r.client()
			backend := receiveFrom(t, "a connection", conns)
			before, pipes := openFiles(t)
			up, down := pour(client, backend, size, true), pour(backend, client, size+1, true)
			pool := engine.tcp[0].pipes
			if disable == "" {
				eventually(t, "a pipe", func() bool { open, _ := pool.count(); return open > 0 })
			}
			for _, over := range []<-chan string{up, down} {
				if got := receiveFrom(t, "the end of a way", over); got != "the same" {
					t.Error(got)
				}
			}
			receiveFrom(t, "the end", done)
			r.wantEnd(reason(r.line("relay ended").ContextMap()["reason"].(string)), size, size+1)
			if open, idle := pool.count(); open != idle || disable != "" && open > 0 {
				t.Errorf("%d pipes are open, %d of them idle", open, idle)
			}
			// Its two sockets are closed, and the loop's epoll will be, with the pipes.
			eventually(t, "all descriptors", func() bool { all, now := openFiles(t); return all < before && now <= pipes })
		})
	}
}

// count is how many pipes there are, and how many of them nobody has.
func (s *pipes) count() (open, idle int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open, len(s.idle)
}

// A flow that has run dry gives its pipe back, though its relay goes on.
func TestPipeIsGivenBack(t *testing.T) {
	t.Setenv("RELAY_DISABLE", "")
	engine := oneLoop()
	_, client, backend, _ := established(t, with(engine))
	pool := engine.tcp[0].pipes
	for range 3 {
		sent := make(chan error, 1)
		go func() {
			_, err := client.Write(make([]byte, 4<<20))
			sent <- err
		}()
		_, err := io.CopyN(io.Discard, backend, 4<<20)
		check(t, err)
		check(t, receiveFrom(t, "the write", sent))
		eventually(t, "the pipe", func() bool { open, idle := pool.count(); return open == 1 && idle == 1 })
		say(t, backend, "well?")
		hear(t, client, "well?")
	}
}

// A relay that ends with bytes in its pipe closes that: they are nobody's.
func TestPipeWithBytesIsClosed(t *testing.T) {
	t.Setenv("RELAY_DISABLE", "")
	engine := oneLoop()
	r, client, _, done := established(t, with(engine))
	before, pipes := openFiles(t)
	sendUntilFull(t, client)
	pool := engine.tcp[0].pipes
	if open, idle := pool.count(); open != 1 || idle != 0 {
		t.Fatalf("%d pipes are open, %d of them idle", open, idle)
	}
	r.relayOf(client.LocalAddr().String(), client.RemoteAddr().String()).cut(shutdown)
	receiveFrom(t, "the end", done)
	if open, idle := pool.count(); open != 0 || idle != 0 {
		t.Errorf("%d pipes are open, %d of them idle", open, idle)
	}
	eventually(t, "all descriptors", func() bool { all, now := openFiles(t); return all < before && now <= pipes })
}

// More flows than there are pipes: the rest is copied, and all of it comes.
func TestMoreFlowsThanPipes(t *testing.T) {
	t.Setenv("RELAY_DISABLE", "")
	noLeaks(t)
	const size, flows, left = 4 << 20, 8, 2
	server, conns := handOver(t, "127.0.0.1:0")
	engine := oneLoop()
	r := newRig(t, []string{server.String()}, with(engine))
	pool := engine.tcp[0].pipes
	var lent []*pipe // to others
	for range maxPipes {
		lent = append(lent, pool.get())
	}
	if pool.get() != nil {
		t.Error("one more than there are")
	}
	for _, pipe := range lent[:left] {
		pipe.put()
	}
	var ways []<-chan string
	for range flows {
		client, _ := r.client()
		backend := receiveFrom(t, "a connection", conns)
		ways = append(ways, pour(client, backend, size, true), pour(backend, client, size, true))
	}
	eventually(t, "the last pipes to be lent", func() bool { _, idle := pool.count(); return idle == 0 })
	for _, over := range ways {
		if got := receiveFrom(t, "the end of a way", over); got != "the same" {
			t.Error(got)
		}
	}
	eventually(t, "the end of the relays", func() bool { tcp, _ := r.service.Active(); return tcp == 0 })
	for _, pipe := range lent[left:] {
		pipe.put()
	}
	eventually(t, "the pipes to be closed", func() bool { open, _ := pool.count(); return open <= idlePipes })
	pool.trim()
}
