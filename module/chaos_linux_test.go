package module_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/relaytest/lab"
)

// TestChaos relays between hosts while all goes wrong that a machine, a network, a
// backend and an operator can do: reloads each second, backends killed and stopped,
// a flood from spoofed addresses, forged ICMP errors, a packet filter that holds
// packets, a narrow path, a log that is not read, no descriptors left. No byte is
// lost whose backend lives, and no client receives anything of another one.
func TestChaos(t *testing.T) {
	if os.Getenv("RELAY_SOAK") == "" {
		t.Skip("takes minutes: .ci/run and .ci/soak set RELAY_SOAK")
	}
	length, _ := soak(t, 0)
	if !lab.InNamespace(t) {
		return
	}
	c := newChaos(t)
	first := c.resting()
	c.clientsOfAll()
	began := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for round := 1; time.Since(began) < length; round++ {
		<-tick.C
		c.reload(round)
		c.fault(round)
		if round%60 == 0 {
			t.Logf("after %v: %v", time.Since(began).Round(time.Second), c)
		}
	}
	c.repair()
	c.clients.end()
	close(c.stop)
	c.check()
	var last usage
	defer func() {
		t.Logf("%v: %v", time.Since(began).Round(time.Second), c)
		t.Logf("at first: %v; at last: %v", first, last)
	}()
	relaytest.Eventually(t, "the usage to be as at first", func() bool {
		last = c.resting()
		return last.goroutines <= first.goroutines+5 && last.descriptors <= first.descriptors+5 && last.heap <= first.heap+(4<<20)
	})
	c.caddy.terminate()
	if status := c.caddy.status(); status != 0 {
		t.Errorf("status %d", status)
	}
}

// chaos is a relay between hosts, with its clients and backends.
type chaos struct {
	t        *testing.T
	caddy    *caddyProcess
	log      *pausedLog
	clients  *chaosClients
	services []*chaosService
	backends map[string][]string // addresses, by service
	options  map[string]string

	mortal  [2]*backendProcess // of the service killed
	all     []*backendProcess
	stopped *backendProcess
	tun     *lab.TUN
	stop    chan struct{} // closed for what needs no repair
	races   string        // prefix of the files for reports of the race detector

	reloads, rejected, kills, stops, shortages, flood, forged, probes atomic.Int64
}

const (
	chaosFiles = 1200 // the descriptor limit of the relay
	chaosPort  = 9000 // the first port of the relay
	nearAddr   = "10.30.0.1"
)

// newChaos builds the hosts and starts backends and relay.
func newChaos(t *testing.T) *chaos {
	c := &chaos{
		t:        t,
		clients:  &chaosClients{t: t, stop: make(chan struct{})},
		backends: make(map[string][]string),
		options:  make(map[string]string),
		stop:     make(chan struct{}),
		races:    filepath.Join(t.TempDir(), "race"),
	}
	near, held, router, far := lab.NewHost(t, "near"), lab.NewHost(t, "held"), lab.NewHost(t, "router"), lab.NewHost(t, "far")
	near.Link(t, "10.20.0.1/24")
	held.Link(t, "10.40.0.1/24")
	router.Link(t, nearAddr+"/24")
	far.LinkBehind(t, router, "10.31.0.1/24", 1280)
	c.tun = lab.NewTUN(t, func(*lab.TUN, lab.Datagram) {}, "172.16.0.1/12")
	lab.HoldPackets(t, "53", func(n int) time.Duration {
		return time.Duration(n%2) * (8*time.Millisecond + rand.N(52*time.Millisecond))
	})

	dialFar := func(network, addr string) (conn net.Conn, err error) {
		if failed := far.Do(func() { conn, err = dialHere(network, addr) }); failed != nil {
			return nil, failed
		}
		return conn, err
	}
	service := func(s chaosService, options string) *chaosService {
		s.port = chaosPort + len(c.services)
		s.dial, s.at = dialHere, "127.0.0.1"
		c.services = append(c.services, &s)
		c.options[s.name] = options
		return &s
	}
	backend := func(host *lab.Host, s *chaosService, answers int, addr string) *backendProcess {
		b := startBackend(t, host, s.name, fmt.Sprint(s.name, len(c.backends[s.name])), answers, addr)
		c.backends[s.name] = append(c.backends[s.name], addr)
		c.all = append(c.all, b)
		return b
	}
	const ms = time.Millisecond
	backend(near, service(chaosService{name: "plain", longest: 20 * time.Second, interval: 30 * ms}, "access_log all"), 1, "10.20.0.2:7001")
	backend(near, service(chaosService{name: "short", interval: 20 * ms}, "access_log all\n max_connections 100"), 1, "10.20.0.2:7002")
	for i, host := range []*lab.Host{near, held} {
		s := service(chaosService{name: fmt.Sprint("held", i), held: true, longest: 10 * time.Second, interval: 10 * ms}, "udp_responses 1\n max_udp_sessions 200")
		backend(host, s, 2, fmt.Sprintf("10.%d.0.2:53", 20+20*i))
	}
	backend(far, service(chaosService{name: "narrow", path: 1200, longest: 10 * time.Second, interval: 40 * ms}, ""), 1, "10.31.0.2:7003")
	killed := service(chaosService{name: "killed", killed: new(fault), longest: 5 * time.Second, interval: 30 * ms}, "udp_reply_timeout 2s\n access_log all")
	for i := range c.mortal {
		c.mortal[i] = backend(near, killed, 1, fmt.Sprintf("10.20.0.2:%d", 7004+i))
	}
	c.stopped = backend(near, service(chaosService{name: "stopped", longest: 10 * time.Second, interval: 30 * ms}, ""), 1, "10.20.0.2:7006")
	backend(near, service(chaosService{name: "flooded", longest: 10 * time.Second, interval: 30 * ms}, "max_udp_sessions 200"), 1, "10.20.0.2:7007")
	backend(near, service(chaosService{name: "crowded"}, ""), 1, "10.20.0.2:7008")
	// The backends of these services live: their standby is never needed.
	for _, s := range c.services {
		if s.killed == nil {
			c.backends[s.name] = append(c.backends[s.name], "10.20.0.2:1")
		}
	}
	narrowClients := *c.named("plain")
	narrowClients.dial, narrowClients.at, narrowClients.path = dialFar, nearAddr, 1200
	c.services = append(c.services, &narrowClients)
	c.startRelay()
	return c
}

// named returns a service.
func (c *chaos) named(name string) *chaosService {
	for _, s := range c.services {
		if s.name == name {
			return s
		}
	}
	panic(name)
}

// config returns the config of a round. Each differs from the one before in all
// services, and every third has one more.
func (c *chaos) config(round int) string {
	var text strings.Builder
	fmt.Fprintf(&text, "{\n admin %s\n persist_config off\n log {\n output relay_queue stderr\n format json\n }\n layer4 {\n", c.caddy.admin)
	seen := make(map[string]bool)
	for _, s := range c.services {
		if !seen[s.name] {
			text.WriteString(bothAt(fmt.Sprint(":", s.port), fmt.Sprintf("%s {\n name %s\n idle_timeout %ds\n %s\n }",
				strings.Join(c.backends[s.name], " "), s.name, 8+round%2, c.options[s.name])))
		}
		seen[s.name] = true
	}
	if round%3 == 0 {
		text.WriteString(bothAt(fmt.Sprint(":", chaosPort-1), "10.20.0.2:7001 {\n name comes\n }"))
	}
	text.WriteString(" }\n}\n")
	return text.String()
}

// startRelay starts Caddy in a process with few descriptors, whose log is a pipe.
func (c *chaos) startRelay() {
	t := c.t
	c.caddy = &caddyProcess{server: &server{t: t, admin: freeAddr(t)}}
	path := filepath.Join(t.TempDir(), "Caddyfile")
	relaytest.Check(t, os.WriteFile(path, []byte(c.config(0)), 0o600))
	self, err := os.Executable()
	relaytest.Check(t, err)
	reader, writer, err := os.Pipe()
	relaytest.Check(t, err)
	_, err = unix.FcntlInt(writer.Fd(), unix.F_SETPIPE_SZ, 4096) // full soon after a pause begins
	relaytest.Check(t, err)
	c.log = newPausedLog(reader)
	t.Cleanup(func() { reader.Close() })
	script := fmt.Sprintf(`ulimit -n %d && export GORACE=log_path='%s' && exec "$0" "$@"`, chaosFiles, c.races)
	cmd := exec.Command("sh", "-c", script, self, "run", "--config", path, "--adapter", "caddyfile")
	c.caddy.process = spawnWith(t, "caddy", cmd, writer)
	relaytest.Eventually(t, "the relay to run", func() bool { _, err := c.caddy.tryScrape(); return err == nil })
}

// clientsOfAll starts the clients.
func (c *chaos) clientsOfAll() {
	for _, s := range c.services {
		switch {
		case s.name == "crowded":
		case s.longest == 0:
			for range 4 {
				c.clients.stream(s)
			}
		case s.held:
			for range 4 {
				c.clients.query(s)
			}
		default:
			for range 3 {
				c.clients.stream(s)
				c.clients.session(s)
			}
			short := *s
			short.longest = 0
			c.clients.stream(&short)
		}
	}
	go c.attack()
}

// attack sends a flood from spoofed addresses, and forged ICMP errors. It waits for
// a client of the flooded service after each part, so that the kernel's queue of
// the listener never overflows.
func (c *chaos) attack() {
	flooded := c.named("flooded")
	to := netip.AddrPortFrom(netip.MustParseAddr("172.16.0.1"), uint16(flooded.port))
	relay, backend := netip.MustParseAddr("10.20.0.1"), netip.MustParseAddrPort("10.20.0.2:7001")
	probe := mark{service: flooded.name, client: int(c.clients.clients.Add(1))}
	conn, err := flooded.open("udp")
	if err != nil {
		c.t.Error(err)
		return
	}
	defer conn.Close()
	for {
		select {
		case <-c.stop:
			return
		case <-time.After(40 * time.Millisecond):
		}
		for range 50 {
			n := c.flood.Add(1)
			from := netip.AddrFrom4([4]byte{172, byte(17 + n>>16%14), byte(n >> 8), byte(n)})
			c.tun.Send(lab.Datagram{From: netip.AddrPortFrom(from, uint16(1024+rand.N(60_000))), To: to, Payload: []byte(floodMark)}.Packet())
		}
		for range 5 {
			c.forged.Add(1)
			quoted := lab.Datagram{From: netip.AddrPortFrom(relay, uint16(32768+rand.N(28_232))), To: backend, Payload: []byte("x")}
			c.tun.Send(quoted.Error(netip.MustParseAddr("172.16.9.9"), lab.PortUnreachable4))
		}
		probe.seq++
		wanted := map[int][]byte{probe.seq: probe.content(recordSize)}
		_, _ = conn.Write(wanted[probe.seq])
		if c.clients.answers(flooded, probe, conn, wanted, time.Second) == nil { // a shortage may cost it its answer
			c.probes.Add(1)
		}
	}
}

// pausedLog reads a log, with pauses.
type pausedLog struct {
	pause         atomic.Bool
	lines, panics atomic.Int64
	pauses        atomic.Int64
	first         atomic.Pointer[string] // line about a panic
}

func newPausedLog(from *os.File) *pausedLog {
	l := new(pausedLog)
	go func() { // ends with the process, or with the test
		lines := bufio.NewScanner(from)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			for l.pause.Load() {
				time.Sleep(10 * time.Millisecond)
			}
			l.lines.Add(1)
			if text := lines.Text(); strings.Contains(text, "panic") {
				l.panics.Add(1)
				l.first.CompareAndSwap(nil, &text)
			}
		}
	}()
	return l
}
