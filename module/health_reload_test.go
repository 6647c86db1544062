package module_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// counted is a backend that counts its connections.
type counted struct {
	addr  string
	count atomic.Int64
}

func newCounted(t *testing.T) *counted {
	t.Helper()
	ln := listenTCP(t)
	c := &counted{addr: ln.Addr().String()}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			c.count.Add(1)
			conn.Close()
		}
	}()
	return c
}

// more waits for n more connections.
func (c *counted) more(t *testing.T, n int64) {
	t.Helper()
	want := c.count.Load() + n
	relaytest.Eventually(t, fmt.Sprintf("%d probes of %s", n, c.addr), func() bool { return c.count.Load() >= want })
}

// settle waits until the connections that wait for the backend are counted.
func (c *counted) settle(t *testing.T) {
	t.Helper()
	readToEnd(dial(t, "tcp", c.addr)) // is accepted after all others
}

// quiet checks that no more connections come, but for a probe that is already under
// way and one with which a new check begins.
func quiet(t *testing.T, backends ...*counted) {
	t.Helper()
	counts := func() (all []int64) {
		for _, c := range backends {
			all = append(all, c.count.Load())
		}
		return all
	}
	for _, c := range backends {
		c.settle(t)
	}
	first := counts()
	relaytest.Eventually(t, "no probes to come", func() bool {
		before := counts()
		time.Sleep(time.Second) // the time of three probes
		return slices.Equal(counts(), before)
	})
	for i, n := range counts() {
		if n -= first[i]; n > 2 {
			t.Errorf("%d probes of %s", n, backends[i].addr)
		}
	}
}

// The probes follow the current config.
func TestProbesFollowReloads(t *testing.T) {
	a, b, c, at := newCounted(t), newCounted(t), newCounted(t), freeAddr(t)
	config := func(backends, probes string) string {
		return block("TCP/"+at, fmt.Sprintf("%s {\n name probed\n %s\n }", backends, probes))
	}
	s := start(t, config(a.addr+" "+b.addr, quickly))
	a.more(t, 3)
	b.more(t, 3)

	if err := s.reload(config(c.addr, quickly) + block("192.0.2.1:1", a.addr)); err == nil {
		t.Fatal("a listener on an address that is not ours was accepted")
	}
	a.more(t, 3)
	b.more(t, 3)
	if n := c.count.Load(); n != 0 {
		t.Errorf("%d probes by a config that was rejected", n)
	}

	s.mustReload(config(c.addr+" "+a.addr, quickly))
	a.more(t, 3)
	c.more(t, 3)
	quiet(t, b)

	s.mustReload(config(c.addr+" "+a.addr, ""))
	quiet(t, a, b, c)

	for i := range 5 { // each reload stops the probes of the config before
		s.mustReload(config(a.addr, fmt.Sprintf("health_check %dms", 200+i)))
	}
	a.more(t, 3)
	s.mustReload(config(a.addr, "health_check 1h"))
	quiet(t, a, b, c)

	s.mustReload(config(a.addr, quickly))
	a.more(t, 3)
	s.mustReload(block("TCP/"+at, b.addr+" {\n name other\n }"))
	quiet(t, a, b, c)
	for _, line := range s.lines("backend failed, first strike") {
		if !strings.Contains(fmt.Sprint(line["error"]), "timeout") { // on a busy machine
			t.Errorf("strike: %v", line)
		}
	}
}

// The probes of a service stop when it is removed, also while it still has a
// relay. They start again when the service returns.
func TestProbesOfARemovedService(t *testing.T) {
	a, at, other := newMortal(t), freeAddr(t), freeAddr(t)
	probed := newCounted(t)
	rest := block("TCP/"+other, a.addr+" {\n name rest\n }")
	full := rest + block("TCP/"+at, fmt.Sprintf("%s %s {\n name leaves\n %s }", a.addr, probed.addr, quickly))
	s := start(t, full)
	conn := dial(t, "tcp", at)
	ask(t, conn, "x")
	probed.more(t, 3)
	s.mustReload(rest)
	quiet(t, probed)
	if got := ask(t, conn, "y"); got != "b y" {
		t.Errorf("got %q", got)
	}
	s.mustReload(full)
	probed.more(t, 3)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	quiet(t, probed)
}
