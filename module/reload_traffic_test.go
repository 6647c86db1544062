package module_test

import (
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// soak returns how long a test runs, and whether it runs in its long form.
// RELAY_SOAK, which .ci/soak sets, selects the long form.
func soak(t *testing.T, short time.Duration) (length time.Duration, long bool) {
	t.Helper()
	text := os.Getenv("RELAY_SOAK")
	if text == "" {
		return short, false
	}
	length, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal("RELAY_SOAK: ", err)
	}
	return length, true
}

// traffic runs TCP and UDP clients and counts their results.
type traffic struct {
	stop    chan struct{}
	clients sync.WaitGroup

	connects, refused, broken atomic.Int64 // TCP
	asked, lost               atomic.Int64 // UDP

	mu   sync.Mutex
	errs map[string]int // counts by error; guarded by mu
}

func newTraffic() *traffic { return &traffic{stop: make(chan struct{}), errs: make(map[string]int)} }

func (f *traffic) end() {
	close(f.stop)
	f.clients.Wait()
}

func (f *traffic) over() bool {
	select {
	case <-f.stop:
		return true
	default:
		return false
	}
}

func (f *traffic) saw(what string, err error) {
	if op, ok := err.(*net.OpError); ok {
		err = op.Err // without the addresses, which differ each time
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs[fmt.Sprint(what, ": ", err)]++
}

// connect runs workers that connect, send, read and close again and again, with a
// pause between two connections.
func (f *traffic) connect(workers int, at string, pause time.Duration) {
	for range workers {
		f.clients.Go(func() {
			for i := 0; !f.over(); i++ {
				f.connects.Add(1)
				conn, err := net.DialTimeout("tcp", at, relaytest.Limit)
				if err != nil {
					f.refused.Add(1)
					f.saw("connect", err)
					continue
				}
				_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
				text := fmt.Sprint("x", i)
				_, err = conn.Write([]byte(text))
				buf := make([]byte, 100)
				n := 0
				if err == nil {
					n, err = conn.Read(buf)
				}
				if err != nil || string(buf[:n]) != "b "+text {
					f.broken.Add(1)
					f.saw("echo", err)
				}
				conn.Close()
				time.Sleep(pause)
			}
		})
	}
}

// talk runs clients that ask over one socket each, at most every 10 ms.
func (f *traffic) talk(clients int, at string) {
	for c := range clients {
		f.clients.Go(func() {
			conn, err := net.Dial("udp", at)
			if err != nil {
				f.lost.Add(1)
				f.saw("socket", err)
				return
			}
			defer conn.Close()
			buf := make([]byte, 100)
			for i := 0; !f.over(); i++ {
				text := fmt.Sprintf("client %d question %d", c, i)
				f.asked.Add(1)
				_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
				if _, err := conn.Write([]byte(text)); err != nil {
					f.lost.Add(1)
					f.saw("send", err)
					time.Sleep(10 * time.Millisecond)
					continue
				}
				if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "b "+text {
					f.lost.Add(1)
					f.saw(fmt.Sprintf("answer to %.9s", text), err)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
}

func (f *traffic) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprintf("%d connects: %d failed, %d broken; %d datagrams: %d lost; errors: %v",
		f.connects.Load(), f.refused.Load(), f.broken.Load(), f.asked.Load(), f.lost.Load(), f.errs)
}

// sourcesOf starts a UDP backend b. The returned function counts the addresses
// that it received datagrams from.
func sourcesOf(t *testing.T, addr string) (sources func() int) {
	t.Helper()
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	var seen sync.Map
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			seen.Store(from.String(), true)
			_, _ = pc.WriteTo(append([]byte("b "), buf[:n]...), from)
		}
	}()
	return func() (n int) {
		seen.Range(func(any, any) bool { n++; return true })
		return n
	}
}

const talkers = 10

// reloadUnder reloads about four times a second while traffic flows.
func reloadUnder(t *testing.T, s *server, length time.Duration, at string, config func(round int) string) (f *traffic, reloads int) {
	t.Helper()
	f = newTraffic()
	f.connect(8, at, 0)
	f.talk(talkers, at)
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(length); time.Now().Before(end); reloads++ {
		<-tick.C
		if err := s.reload(config(reloads + 1)); err != nil {
			t.Error(err)
		}
	}
	f.end()
	return f, reloads
}

// On our networks a reload costs no client anything.
func TestReloadsLoseNothing(t *testing.T) {
	length, _ := soak(t, 5*time.Second)
	backend, _ := echoTCP(t, "b")
	sources := sourcesOf(t, backend)
	at := freeAddr(t)
	config := func(round int) string {
		return fmt.Sprintf("relay+tcp/%s relay+udp/%s {\n route {\n relay %s {\n name hitless\n idle_timeout %dm\n }\n }\n }", at, at, backend, 1+round%2)
	}
	s := start(t, config(0))
	f, reloads := reloadUnder(t, s, length, at, config)
	t.Logf("relay+tcp, relay+udp: %d reloads; %v; %d UDP clients, seen as %d", reloads, f, talkers, sources())
	if f.refused.Load()+f.broken.Load()+f.lost.Load() > 0 || f.connects.Load() == 0 {
		t.Errorf("something was lost: %v", f)
	}
	if got := sources(); got != talkers {
		t.Errorf("the backend saw %d clients from %d addresses", talkers, got)
	}
	if got := len(s.lines("config reloaded")); got != reloads {
		t.Errorf("%d reloads were logged %d times", reloads, got)
	}
}

// TestReloadsOfCaddysNetworks logs what the same reloads cost with caddy-l4's own
// proxy on Caddy's networks. It checks nothing.
func TestReloadsOfCaddysNetworks(t *testing.T) {
	length, _ := soak(t, 3*time.Second)
	backend, _ := echoTCP(t, "b")
	sources := sourcesOf(t, backend)
	at := freeAddr(t)
	config := func(round int) string {
		return fmt.Sprintf("tcp/%s {\n matching_timeout %ds\n route {\n proxy tcp/%s\n }\n }\n udp/%s {\n matching_timeout %ds\n route {\n proxy udp/%s\n }\n }", at, 3+round%2, backend, at, 3+round%2, backend)
	}
	s := startProcess(t, config(0), 0) // in another process, because it leaks goroutines
	f, reloads := reloadUnder(t, s.server, length, at, config)
	t.Logf("tcp, udp, caddy-l4's proxy: %d reloads; %v; %d UDP clients, seen as %d", reloads, f, talkers, sources())
}
