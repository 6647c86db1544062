package module_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// reload loads the config of a round. Every seventh is followed by a config that
// is rejected.
func (c *chaos) reload(round int) {
	if err := c.caddy.post("/load", "text/caddyfile", []byte(c.config(round))); err != nil {
		c.t.Errorf("reload %d: %v", round, err)
	}
	c.reloads.Add(1)
	if round%7 == 0 {
		wrong := strings.Replace(c.config(round), "idle_timeout", "connect_timeout 0s\n idle_timeout", 1)
		if err := c.caddy.post("/load", "text/caddyfile", []byte(wrong)); err == nil {
			c.t.Error("a wrong config was accepted")
		}
		c.rejected.Add(1)
	}
}

// fault begins or ends a fault, by the number of the round. Only kills and pauses of
// the log overlap with others.
func (c *chaos) fault(round int) {
	victim := c.mortal[round/10%2]
	killed := c.named("killed").killed
	switch round % 10 {
	case 1:
		c.log.pause.Store(true)
		c.log.pauses.Add(1)
	case 2:
		killed.begin()
		victim.kill()
		killed.end()
		c.kills.Add(1)
	case 3:
		c.stopped.signal(syscall.SIGSTOP)
		c.stops.Add(1)
	case 4:
		c.log.pause.Store(false)
	case 5:
		c.stopped.signal(syscall.SIGCONT)
		victim.start()
	case 6: // the kernel forgets how narrow the path is
		if out, err := exec.Command("ip", "route", "flush", "cache").CombinedOutput(); err != nil {
			c.t.Errorf("ip route flush cache: %v: %s", err, out)
		}
	case 7:
		c.runOut(round + 1)
	}
}

// repair ends all faults.
func (c *chaos) repair() {
	c.log.pause.Store(false)
	c.stopped.signal(syscall.SIGCONT)
	for _, b := range c.mortal {
		select {
		case <-b.process.ended:
			b.start()
		default:
		}
	}
}

// runOut takes all descriptors that TCP relays may have, for two seconds. Meanwhile
// the admin API reloads and exports metrics.
func (c *chaos) runOut(round int) {
	const most = chaosFiles - 2*chaosFiles/16 // the others are reserved: see netio
	open := func() int {
		list, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.caddy.cmd.Process.Pid))
		return len(list)
	}
	c.clients.shortage.begin()
	c.shortages.Add(1)
	var crowd []net.Conn
	for deadline := time.Now().Add(relaytest.Limit); open() < most; {
		if time.Now().After(deadline) {
			c.t.Errorf("%d clients took the descriptors up to %d, want %d", len(crowd), open(), most)
			break
		}
		if len(crowd) > chaosFiles {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		conn, err := c.named("crowded").open("tcp")
		if err != nil {
			continue // the relay resets clients that it cannot serve for lack of descriptors
		}
		crowd = append(crowd, conn)
	}
	for range 50 { // they wait in the queue of the listener
		if conn, err := c.named("crowded").open("tcp"); err == nil {
			crowd = append(crowd, conn)
		}
	}
	c.reload(round)
	c.caddy.scrape()
	time.Sleep(2 * time.Second)
	for _, conn := range crowd {
		conn.Close()
	}
	relaytest.Eventually(c.t, "descriptors to be free again", func() bool { return open() < chaosFiles/2 })
	c.clients.shortage.end()
}

// check looks for what the clients do not see.
func (c *chaos) check() {
	for what, n := range map[string]int64{
		"streams": c.clients.streams.Load(), "short connections": c.clients.connects.Load(), "datagrams": c.clients.datagrams.Load(),
		"queries": c.clients.queries.Load(), "answers during the flood": c.probes.Load(), "kills": c.kills.Load(), "log lines": c.log.lines.Load(),
	} {
		if n == 0 {
			c.t.Errorf("there were no %s", what)
		}
	}
	for _, b := range c.all {
		for _, line := range b.foreign() {
			c.t.Error(line)
		}
	}
	if first := c.log.first.Load(); first != nil {
		c.t.Errorf("%d lines about panics, the first: %s", c.log.panics.Load(), *first)
	}
	races, err := filepath.Glob(c.races + "*")
	relaytest.Check(c.t, err)
	for _, path := range races {
		text, _ := os.ReadFile(path)
		c.t.Errorf("race detector: %s", text)
	}
	for name, value := range c.caddy.scrape() {
		series := strings.TrimPrefix(name, metricPrefix)
		metric, labels, _ := strings.Cut(series, "{")
		mayMove := strings.Contains(labels, `service="killed"`)
		switch {
		case value == 0:
		case metric == "demotions_total" && !mayMove, strings.Contains(labels, `reason="queue_full"`), strings.Contains(labels, `reason="listener"`):
			c.t.Errorf("%s is %v", series, value)
		case slices.Contains([]string{"demotions_total", "dropped_datagrams_total", "failures_total", "icmp_errors_ignored_total", "log_lines_dropped_total", "refused_total", "udp_sessions_evicted_total"}, metric):
			c.t.Logf("%s %v", series, value)
		}
	}
}

// resting returns the usage once no relay is active.
func (c *chaos) resting() (u usage) {
	relaytest.Eventually(c.t, "all relays to end", func() bool {
		for name, value := range c.caddy.scrape() {
			if strings.HasPrefix(name, metricPrefix+"connections_active") && value > 0 {
				return false
			}
		}
		return true
	})
	return c.caddy.used()
}

func (c *chaos) String() string {
	return fmt.Sprintf("%d reloads, %d rejected; %d kills, %d stops of a backend; %d shortages of descriptors; %d pauses of the log reader (%d lines read); flood of %d datagrams (%d of its probes answered), %d forged ICMP errors; %v",
		c.reloads.Load(), c.rejected.Load(), c.kills.Load(), c.stops.Load(), c.shortages.Load(), c.log.pauses.Load(), c.log.lines.Load(), c.flood.Load(), c.probes.Load(), c.forged.Load(), c.clients)
}
