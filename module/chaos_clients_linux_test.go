package module_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// fault counts the beginnings and ends of a fault.
type fault struct{ changes atomic.Int64 }

func (f *fault) begin() { f.changes.Add(1) }
func (f *fault) end()   { f.changes.Add(1) }

// since reports whether the fault was active at any time since changes was read.
func (f *fault) since(changes int64) bool {
	now := f.changes.Load()
	return now != changes || now%2 == 1
}

// chaosClients are clients of several services that check all they receive.
type chaosClients struct {
	t     *testing.T
	stop  chan struct{}
	group sync.WaitGroup

	shortage fault // of descriptors

	streams, connects, bytes, datagrams, queries atomic.Int64
	excused, tooLarge, late                      atomic.Int64 // losses that faults explain; answers after the wait for them
	lost, foreign                                atomic.Int64
	clients                                      atomic.Int64
}

func (c *chaosClients) over() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

func (c *chaosClients) end() {
	close(c.stop)
	c.group.Wait()
}

// failed logs a loss that no fault explains.
func (c *chaosClients) failed(m mark, err error) {
	if c.lost.Add(1) <= 10 {
		c.t.Errorf("%v: %v", m, err)
	}
}

// unexpected counts content that a client did not expect, and returns it as an error.
func (c *chaosClients) unexpected(m mark, got []byte) error {
	if from, ok := markIn(got); ok && from.service == m.service && from.client == m.client {
		return fmt.Errorf("received its own content in a wrong place: %s", shortened(got))
	}
	if c.foreign.Add(1) <= 10 {
		c.t.Errorf("foreign: %v received %s", m, shortened(got))
	}
	return errors.New("received foreign content")
}

// chaosService is a service as its clients see it.
type chaosService struct {
	name     string
	port     int
	dial     func(network, addr string) (net.Conn, error) // from the client's host
	at       string                                       // the address of the relay for that host
	killed   *fault                                       // of its backends; nil: they live
	held     bool                                         // a filter changes the order of its answers
	path     int                                          // the largest payload that its path passes whole; 0: any
	longest  time.Duration                                // of a stream
	interval time.Duration                                // between two sends
}

func (s *chaosService) open(network string) (net.Conn, error) {
	return s.dial(network, fmt.Sprintf("%s:%d", s.at, s.port))
}

// faults holds the changes of the faults that concern a service.
type faults struct{ killed, shortage int64 }

func (c *chaosClients) faults(s *chaosService) (f faults) {
	f.shortage = c.shortage.changes.Load()
	if s.killed != nil {
		f.killed = s.killed.changes.Load()
	}
	return f
}

// killedSince reports whether a backend of the service was killed since f.
func (s *chaosService) killedSince(f faults) bool { return s.killed != nil && s.killed.since(f.killed) }

// stream runs a client with one long stream after the other, or with short
// connections if longest is 0.
func (c *chaosClients) stream(s *chaosService) {
	m := mark{service: s.name, client: int(c.clients.Add(1))}
	c.group.Go(func() {
		for ; !c.over(); m.seq++ {
			before := c.faults(s)
			received, err := c.oneStream(s, m)
			switch {
			case err == nil:
			case s.killedSince(before), received == 0 && c.shortage.since(before.shortage):
				c.excused.Add(1)
			default:
				c.failed(m, fmt.Errorf("stream, after %d bytes: %w", received, err))
			}
			time.Sleep(s.interval)
		}
	})
}

// oneStream sends a stream of random length and reads the same from the backend,
// to its end. It returns the number of bytes received.
func (c *chaosClients) oneStream(s *chaosService, m mark) (received int, err error) {
	conn, err := s.open("tcp")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if s.longest == 0 {
		c.connects.Add(1)
	} else {
		c.streams.Add(1)
	}
	sent := make(chan int, 1)
	until := time.Now().Add(rand.N(s.longest + 1))
	_ = conn.SetDeadline(until.Add(2 * relaytest.Limit))
	go func() {
		n := 0
		buf := make([]byte, 64<<10)
		for {
			size := recordSize * (1 + rand.N(8)) // most chunks are small
			if s.longest > 0 && rand.N(8) == 0 {
				size = recordSize * (1 + rand.N(len(buf)/recordSize))
			}
			m.fill(buf[:size], n)
			if _, err := conn.Write(buf[:size]); err != nil {
				break // the reader meets the same end
			}
			n += size
			if time.Now().After(until) || c.over() {
				break
			}
			time.Sleep(rand.N(2 * s.interval))
		}
		_ = conn.(*net.TCPConn).CloseWrite()
		sent <- n
	}()
	got, want := make([]byte, 64<<10), make([]byte, 64<<10+recordSize)
	for {
		n, readErr := conn.Read(got)
		from := received / recordSize * recordSize
		expected := want[:received-from+n]
		m.fill(expected, from)
		if !bytes.Equal(got[:n], expected[received-from:]) {
			return received, c.unexpected(m, got[:n])
		}
		received += n
		c.bytes.Add(int64(n))
		switch {
		case readErr == io.EOF:
			_ = conn.SetDeadline(time.Now()) // wakes the writer, which has finished unless the relay ended early
			if total := <-sent; total != received {
				return received, fmt.Errorf("received %d of %d bytes", received, total)
			}
			return received, nil
		case readErr != nil:
			_ = conn.SetDeadline(time.Now())
			<-sent
			return received, readErr
		}
		if s.longest > 0 && rand.N(500) == 0 {
			time.Sleep(rand.N(time.Second)) // a slow reader
		}
	}
}

// session runs a client with one UDP socket. It sends windows of datagrams and
// waits for all their answers.
func (c *chaosClients) session(s *chaosService) {
	m := mark{service: s.name, client: int(c.clients.Add(1))}
	c.group.Go(func() {
		conn, err := s.open("udp")
		if err != nil {
			c.failed(m, err)
			return
		}
		defer conn.Close()
		good := c.faults(s) // at the last answer
		losses := 0         // in a row
		for !c.over() {
			window := 1 + rand.N(16)
			limit := 1400
			if s.path > 0 && limit > s.path {
				limit = s.path
			}
			large := rand.N(20) == 0
			if large {
				window, limit = 1, 1400+rand.N(2)*18_600
			}
			before, wanted := c.faults(s), make(map[int][]byte)
			first := m.seq
			for range window {
				m.seq++
				wanted[m.seq] = m.content(recordSize + rand.N(limit-recordSize))
			}
			for seq := first + 1; seq <= m.seq; seq++ {
				_, _ = conn.Write(wanted[seq]) // an error is the ICMP error of a datagram before; what is not sent has no answer
			}
			c.datagrams.Add(int64(window))
			tooLarge := large && s.path > 0
			explained := func() bool {
				return tooLarge || s.killedSince(good) && losses < 10 || c.shortage.since(before.shortage)
			}
			err := c.answers(s, m, conn, wanted, time.Second)
			if err != nil && !explained() { // then they are only late
				err = c.answers(s, m, conn, wanted, relaytest.Limit)
			}
			switch {
			case err == nil:
				// The backend may have died since it answered, so what counts is the time of sending.
				good, losses = before, 0
			case tooLarge:
				c.tooLarge.Add(1)
			case explained():
				losses++
				c.excused.Add(int64(len(wanted)))
			default:
				c.failed(m, fmt.Errorf("%d of %d datagrams: %w", len(wanted), window, err))
				good = c.faults(s)
			}
			time.Sleep(rand.N(2 * s.interval))
		}
	})
}

// answers reads answers until none is wanted, in the order of sending where the
// path keeps it. It removes from wanted what has arrived.
func (c *chaosClients) answers(s *chaosService, m mark, conn net.Conn, wanted map[int][]byte, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	buf := make([]byte, 1<<16)
	last := 0
	for len(wanted) > 0 {
		_ = conn.SetReadDeadline(deadline)
		n, err := conn.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case err != nil:
			continue // an ICMP error
		}
		_, datagram, _ := bytes.Cut(buf[:n], []byte("\n")) // behind the name of the backend
		from, ok := markIn(datagram)
		want, expected := wanted[from.seq]
		switch {
		case !ok || from.service != m.service || from.client != m.client:
			_ = c.unexpected(m, buf[:n])
			continue
		case !expected:
			c.late.Add(1)
			continue
		case !bytes.Equal(datagram, want):
			return c.unexpected(m, datagram)
		case !s.held && from.seq < last:
			return fmt.Errorf("answer %d came after %d", from.seq, last)
		}
		last = from.seq
		delete(wanted, from.seq)
	}
	return nil
}

// query runs a client with a new UDP socket for each datagram. Its backend
// answers twice, and the session ends with the first answer.
func (c *chaosClients) query(s *chaosService) {
	c.group.Go(func() {
		for !c.over() {
			m := mark{service: s.name, client: int(c.clients.Add(1))}
			conn, err := s.open("udp")
			if err != nil {
				c.failed(m, err)
				return
			}
			before := c.faults(s)
			wanted := map[int][]byte{0: m.content(2 * recordSize)}
			_, _ = conn.Write(wanted[0])
			c.queries.Add(1)
			if err := c.answers(s, m, conn, wanted, relaytest.Limit/3); err != nil {
				if c.shortage.since(before.shortage) {
					c.excused.Add(1)
				} else {
					c.failed(m, fmt.Errorf("query: %w", err))
				}
			}
			// What else arrives must be the second answer to the same query.
			_ = c.answers(s, m, conn, map[int][]byte{-1: nil}, time.Duration(rand.N(20))*time.Millisecond)
			conn.Close()
			time.Sleep(s.interval)
		}
	})
}

func (c *chaosClients) String() string {
	return fmt.Sprintf("TCP: %d streams, %d short connections, %d MB; UDP: %d datagrams of sessions, %d queries; lost %d, foreign %d; explained by faults: %d lost, %d too large for their path, %d late",
		c.streams.Load(), c.connects.Load(), c.bytes.Load()/1e6, c.datagrams.Load(), c.queries.Load(), c.lost.Load(), c.foreign.Load(), c.excused.Load(), c.tooLarge.Load(), c.late.Load())
}

// dialHere dials from this machine.
func dialHere(network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: relaytest.Limit}
	return d.DialContext(context.Background(), network, addr)
}
