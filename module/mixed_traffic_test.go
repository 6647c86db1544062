package module_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// mortal is a backend for TCP and UDP that can be killed and started again.
type mortal struct {
	t    *testing.T
	addr string

	listening sync.WaitGroup // the goroutines that wait on ln and pc

	mu    sync.Mutex // guards the fields below
	ln    net.Listener
	pc    net.PacketConn
	conns map[net.Conn]bool
}

func newMortal(t *testing.T) *mortal {
	m := &mortal{t: t, addr: freeAddr(t)}
	m.rise()
	t.Cleanup(m.kill)
	return m
}

func (m *mortal) rise() {
	m.mu.Lock()
	defer m.mu.Unlock()
	ln, pc, err := m.listen()
	for began := time.Now(); err != nil && time.Since(began) < relaytest.Limit; ln, pc, err = m.listen() {
		time.Sleep(time.Millisecond) // a forked process may still have the old sockets, see kill
	}
	if err != nil {
		m.t.Error(err)
		return
	}
	m.ln, m.pc, m.conns = ln, pc, make(map[net.Conn]bool)
	m.listening.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(append([]byte("b "), buf[:n]...), from)
		}
	})
	m.listening.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			m.mu.Lock()
			m.conns[conn] = true
			m.mu.Unlock()
			go func() {
				defer func() {
					conn.Close()
					m.mu.Lock()
					delete(m.conns, conn)
					m.mu.Unlock()
				}()
				buf := make([]byte, 100)
				for {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					if _, err := conn.Write(append([]byte("b "), buf[:n]...)); err != nil {
						return
					}
				}
			}()
		}
	})
}

// listen opens both sockets or none.
func (m *mortal) listen() (net.Listener, net.PacketConn, error) {
	ln, err := net.Listen("tcp", m.addr)
	if err != nil {
		return nil, nil, err
	}
	pc, err := net.ListenPacket("udp", m.addr)
	if err != nil {
		ln.Close()
		return nil, nil, err
	}
	return ln, pc, nil
}

// kill ends the backend like a crash: it closes the listeners and resets all
// connections. The system closes a socket only once no goroutine waits on it, so
// until then it would accept another client.
func (m *mortal) kill() {
	m.mu.Lock()
	m.ln.Close()
	m.pc.Close()
	m.mu.Unlock()
	m.listening.Wait()
	// A process that was forked meanwhile, for an event hook, has the socket until it
	// runs its program.
	for began := time.Now(); time.Since(began) < relaytest.Limit; {
		conn, err := net.Dial("tcp", m.addr)
		if err != nil {
			break
		}
		conn.Close()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for conn := range m.conns {
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}

// used returns the usage of the process, from its debug endpoints.
func (p *caddyProcess) used() (u usage) {
	t := p.server.t
	get := func(path, format string, value any) {
		var text []byte
		relaytest.Eventually(t, "a response of the admin API to "+path, func() bool { // a reload may reset the request
			answer, err := http.Get("http://" + p.admin + path)
			if err != nil {
				return false
			}
			defer answer.Body.Close()
			text, err = io.ReadAll(answer.Body)
			return err == nil && answer.StatusCode == http.StatusOK
		})
		for line := range strings.Lines(string(text)) {
			if _, err := fmt.Sscanf(line, format, value); err == nil {
				return
			}
		}
		t.Errorf("%s tells nothing like %q", path, format)
	}
	get("/debug/pprof/goroutine?debug=1", "goroutine profile: total %d", &u.goroutines)
	get("/debug/pprof/heap?gc=1&debug=1", "# HeapAlloc = %d", &u.heap)
	if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)); err == nil {
		u.descriptors = len(fds)
	}
	return u
}

// The long run: TCP and UDP traffic, a reload every second, and one of two backends
// killed every ten seconds. Only clients of a killed backend may see an error.
func TestMixedTraffic(t *testing.T) {
	if os.Getenv("RELAY_SOAK") == "" {
		t.Skip("the long run is for .ci/soak, which sets RELAY_SOAK")
	}
	length, _ := soak(t, 0)
	backends := []*mortal{newMortal(t), newMortal(t)}
	at := freeAddr(t)
	config := func(round int) string {
		return bothAt(at, fmt.Sprintf("%s %s {\n name mixed\n idle_timeout %ds\n udp_reply_timeout 1s\n }", backends[0].addr, backends[1].addr, 20+round%2))
	}
	s := startProcess(t, config(0), 0)
	f := newTraffic()
	f.connect(8, at, 2*time.Millisecond)
	f.talk(talkers, at)
	began := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	failed := func() int64 { return f.refused.Load() + f.broken.Load() + f.lost.Load() }
	var before int64 // failures when the last kill was complete
	kills, elsewhere := 0, int64(0)
	var first, last usage
	for round := 1; time.Since(began) < length; round++ {
		<-tick.C
		if err := s.reload(config(round)); err != nil {
			t.Error(err)
		}
		victim := backends[kills%2]
		switch round % 10 {
		case 5:
			if n := failed() - before; n > 0 {
				elsewhere += n
				t.Errorf("after %v: %d errors since the last kill", time.Since(began).Round(time.Second), n)
			}
			victim.kill()
		case 8:
			before = failed() // all failures due to the kill have occurred
			victim.rise()
			kills++
		}
		if round%30 == 10 || round == 9 {
			last = s.used()
			if first.heap == 0 && round >= 10 {
				first = last
			}
			t.Logf("after %v: %v; %v", time.Since(began).Round(time.Second), last, f)
		}
	}
	f.end()
	t.Logf("%d kills, %d errors at other times; %v", kills, elsewhere, f)
	t.Logf("at first: %v; at last: %v", first, last)
	if last.goroutines > first.goroutines+50 || last.descriptors > first.descriptors+100 || last.heap > 2*first.heap+(16<<20) {
		t.Errorf("it grows: %v at first, %v at last", first, last)
	}
}
