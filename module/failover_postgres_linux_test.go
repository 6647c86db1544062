package module_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// load is what clients do to a cluster, and what comes of it.
type load struct {
	*cluster
	end     time.Time
	runs    atomic.Int64 // numbers the runs of pgbench
	acked   sync.Map     // run -> how many transactions the server has confirmed
	refused atomic.Int64 // runs that got no connection
	failed  atomic.Int64 // transactions that ended with an error
	stuck   atomic.Int64 // runs without an answer at the end
}

var processed = regexp.MustCompile(`number of transactions actually processed: (\d+)`)

// start starts clients, for some seconds. Each is a pgbench that inserts 100 rows a
// second on one connection, and is started again when it has failed.
func (c *load) start(addr string, clients int, length time.Duration) (wait func()) {
	script := filepath.Join(c.t.TempDir(), "insert.sql")
	relaytest.Check(c.t, os.WriteFile(script, []byte("\\set n :n + 1\ninsert into journal (run, n) values (:run, :n);\n"), 0o644))
	host, port, _ := net.SplitHostPort(addr)
	pgbench := needs(c.t, "pgbench")
	end := time.Now().Add(length)
	c.end = end
	ctx, cancel := context.WithDeadline(context.Background(), end.Add(10*time.Second))
	one := func() {
		run := c.runs.Add(1)
		left := int(time.Until(end).Seconds()) + 1
		cmd := exec.CommandContext(ctx, pgbench, "-h", host, "-p", port, "-U", "owner", "-n", "-R", "100", "-f", script,
			"-T", strconv.Itoa(left), "-D", "n=0", "-D", fmt.Sprintf("run=%d", run), "postgres")
		out, err := cmd.CombinedOutput()
		count := 0
		if m := processed.FindSubmatch(out); m != nil {
			count, _ = strconv.Atoi(string(m[1]))
		}
		c.acked.Store(run, count)
		switch {
		case err == nil:
			return
		case ctx.Err() != nil:
			c.stuck.Add(1)
		case strings.Contains(string(out), "connection to server"):
			c.refused.Add(1)
		default:
			c.failed.Add(1)
		}
		if testing.Verbose() {
			c.t.Logf("run %d, %d transactions: %s", run, count, firstError(string(out)))
		}
	}
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for time.Now().Before(end) {
				one()
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	return func() { all.Wait(); cancel() }
}

func firstError(out string) string {
	for line := range strings.Lines(out) {
		if strings.Contains(line, "error:") || strings.Contains(line, "FATAL:") || strings.Contains(line, "ERROR:") {
			return strings.TrimSpace(line)
		}
	}
	return out
}

// result is what the clients have seen of a failover.
type result struct {
	transactions, lost, failed, refused, stuck int
	outage                                     time.Duration // the longest time without a transaction
}

func (r result) String() string {
	return fmt.Sprintf("%d transactions, %d lost, %d failed, %d connections refused, %d clients stuck, outage %.2f s",
		r.transactions, r.lost, r.failed, r.refused, r.stuck, r.outage.Seconds())
}

// result compares what the new primary has with what clients were told.
func (c *load) result() result {
	c.t.Helper()
	r := result{failed: int(c.failed.Load()), refused: int(c.refused.Load()), stuck: int(c.stuck.Load())}
	rows := make(map[int64]int) // how many of the confirmed transactions of a run the new primary has
	var times []float64
	for line := range strings.Lines(c.query(c.nodes[1], "select run, n, extract(epoch from at) from journal")) {
		var run int64
		var n int
		var at float64
		_, err := fmt.Sscanf(strings.ReplaceAll(line, "|", " "), "%d %d %f", &run, &n, &at)
		relaytest.Check(c.t, err)
		times = append(times, at)
		if confirmed, ok := c.acked.Load(run); ok && n <= confirmed.(int) {
			rows[run]++
		}
	}
	c.acked.Range(func(run, confirmed any) bool {
		r.transactions += confirmed.(int)
		r.lost += confirmed.(int) - rows[run.(int64)]
		return true
	})
	times = append(times, float64(c.end.UnixMicro())/1e6)
	slices.Sort(times)
	for i := 1; i < len(times); i++ {
		r.outage = max(r.outage, time.Duration((times[i]-times[i-1])*float64(time.Second)))
	}
	return r
}

// ending is what happens to the primary before the standby is promoted.
type ending struct {
	name        string
	synchronous bool
	do          func(*cluster)
}

var endings = []ending{
	{"killed", true, func(c *cluster) { signalAll(c.processes[0].Pid, syscall.SIGKILL) }},
	// It accepts connections, and answers nothing.
	{"hung", true, func(c *cluster) { signalAll(c.processes[0].Pid, syscall.SIGSTOP) }},
	// It has lost the role and still serves. What it confirms after the promotion is
	// lost, so the role is free for a while first, as it is with Patroni.
	{"not stopped", false, func(*cluster) { time.Sleep(time.Second) }},
}

const comparing = "RELAY_COMPARE"

// A standby is promoted under load. The check reads the role of each node, hold
// makes clients wait for the new primary, and on_down cut ends the sessions of the
// old one. With RELAY_COMPARE=1 this measures the relay without the two options,
// and haproxy, too.
func TestFailoverOfPostgres(t *testing.T) {
	targets := []struct {
		name  string
		start func(t *testing.T, c *cluster) (addr string)
	}{
		{"relay", func(t *testing.T, c *cluster) string { return relayTo(t, c, "hold 15s\non_down cut") }},
		{"relay without hold and on_down cut", func(t *testing.T, c *cluster) string { return relayTo(t, c, "") }},
		{"haproxy", haproxyTo},
	}
	if os.Getenv(comparing) == "" {
		targets = targets[:1]
	}
	for _, f := range endings {
		for i, target := range targets {
			t.Run(f.name+", "+target.name, func(t *testing.T) {
				c := &load{cluster: startCluster(t, f.synchronous)}
				wait := c.start(target.start(t, c.cluster), 4, 5*time.Second)
				relaytest.Eventually(t, "the clients to be served", func() bool {
					n, _ := strconv.Atoi(c.query(c.nodes[1], "select count(distinct run) from journal"))
					return n >= 4
				})
				c.primary.Store(-1)
				f.do(c.cluster)
				c.promote()
				wait()
				r := c.result()
				t.Log(r)
				if i > 0 {
					return
				}
				if r.refused > 0 || r.stuck > 0 {
					t.Errorf("%d connections were refused, %d clients have no answer", r.refused, r.stuck)
				}
				if f.synchronous && r.lost > 0 {
					t.Errorf("%d confirmed transactions are lost", r.lost)
				}
			})
		}
	}
}

func relayTo(t *testing.T, c *cluster, options string) string {
	at := freeAddr(t)
	start(t, block("relay+tcp/"+at, fmt.Sprintf(`%s {
		name %s
		%s
		health_check 100ms {
			port %d
			http /primary
		}
	}`, strings.Join(c.nodes[:], " "), unique("postgres"), options, c.roles)))
	return at
}

func haproxyTo(t *testing.T, c *cluster) string {
	program, at := needs(t, "haproxy"), freeAddr(t)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	relaytest.Check(t, os.WriteFile(file, fmt.Appendf(nil, `defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
listen db
  bind %s
  balance first
  option redispatch 1
  retries 3
  option httpchk GET /primary
  http-check expect status 200
  default-server check port %d inter 100ms fall 1 rise 1 on-marked-down shutdown-sessions
  server a %s
  server b %s
`, at, c.roles, c.nodes[0], c.nodes[1]), 0o644))
	startServer(t, "", program, "-db", "-q", "-f", file)
	relaytest.Eventually(t, "haproxy to know the primary", func() bool { return c.query(at, "select pg_is_in_recovery()") == "f" })
	return at
}
