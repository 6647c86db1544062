package module_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
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

// cluster is a PostgreSQL primary and its standby, and for each of them what
// Patroni is to them: an HTTP server that tells which one is the primary. Both
// databases have one port, and both HTTP servers have another one, so that a check
// with `port` reaches the right one.
type cluster struct {
	t         *testing.T
	dir       string // of the data
	nodes     [2]string
	processes [2]*os.Process
	roles     int          // the port of the HTTP servers
	primary   atomic.Int32 // the node that is the primary; -1 if there is none
	runs      atomic.Int64 // numbers the runs of pgbench
	acked     sync.Map     // run -> how many transactions the server has confirmed
	end       time.Time    // of the load
	refused   atomic.Int64 // runs that got no connection
	failed    atomic.Int64 // transactions that ended with an error
	stuck     atomic.Int64 // runs without an answer at the end
}

// nodeIP returns the address of a node.
func nodeIP(i int) string { return fmt.Sprintf("127.0.0.%d", 1+i) }

// startCluster starts the databases. With sync, the primary confirms a transaction
// once the standby has it.
func startCluster(t *testing.T, sync bool) *cluster {
	t.Helper()
	for _, program := range []string{"postgres", "initdb", "pg_basebackup", "pg_ctl", "psql", "pgbench"} {
		needs(t, program)
	}
	c := &cluster{t: t, dir: ownedDir(t, "postgres"), roles: freePort(t)}
	port := freePort(t)
	for i := range c.nodes {
		c.nodes[i] = net.JoinHostPort(nodeIP(i), strconv.Itoa(port))
		listener, err := net.Listen("tcp", net.JoinHostPort(nodeIP(i), strconv.Itoa(c.roles)))
		relaytest.Check(t, err)
		role := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/primary" || int(c.primary.Load()) != i {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
		role.Listener.Close()
		role.Listener = listener
		role.Start()
		t.Cleanup(role.Close)
	}
	c.run("initdb", "--pgdata", c.data(0), "--no-sync", "--username", "owner", "--auth", "trust")
	var names []string
	if sync {
		names = []string{"-c", "synchronous_standby_names=*"}
	}
	c.start(0, names...)
	c.run("pg_basebackup", "--pgdata", c.data(1), "-h", nodeIP(0), "-p", strconv.Itoa(port), "-U", "owner", "-R", "--no-sync", "-c", "fast")
	c.start(1)
	relaytest.Eventually(t, "the standby to follow", func() bool {
		return c.query(c.nodes[0], "select count(*) from pg_stat_replication where state = 'streaming'") == "1"
	})
	c.query(c.nodes[0], "create table journal (run int, n int, at timestamptz default clock_timestamp())")
	return c
}

// ownedDir returns a new directory of that user. It is not t.TempDir, whose parents
// are closed to other users.
func ownedDir(t *testing.T, account string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "relay-"+account)
	relaytest.Check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	if owner := credential(t, account); owner != nil {
		relaytest.Check(t, os.Chown(dir, int(owner.Uid), int(owner.Gid)))
	}
	return dir
}

func (c *cluster) data(i int) string { return filepath.Join(c.dir, strconv.Itoa(i)) }

// run runs a program as the user of the databases.
func (c *cluster) run(program string, args ...string) {
	c.t.Helper()
	cmd := exec.Command(needs(c.t, program), args...)
	cmd.Dir, cmd.SysProcAttr = c.dir, &syscall.SysProcAttr{Credential: credential(c.t, "postgres")}
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// start starts a node and waits until it answers.
func (c *cluster) start(i int, args ...string) {
	c.t.Helper()
	host, port, _ := net.SplitHostPort(c.nodes[i])
	args = append([]string{"-D", c.data(i), "-p", port, "-F", "-c", "listen_addresses=" + host, "-c", "unix_socket_directories=", "-c", "wal_retrieve_retry_interval=100ms"}, args...)
	c.processes[i] = startServer(c.t, "postgres", needs(c.t, "postgres"), args...)
	c.t.Cleanup(func() { signalAll(c.processes[i].Pid, syscall.SIGKILL) })
	relaytest.Eventually(c.t, "the database to answer", func() bool { return c.query(c.nodes[i], "select 1") == "1" })
}

// query returns the output of a query, or "" if it fails.
func (c *cluster) query(addr, text string) string {
	host, port, _ := net.SplitHostPort(addr)
	out, _ := exec.Command(needs(c.t, "psql"), "-h", host, "-p", port, "-U", "owner", "-d", "postgres", "-Atqc", text).Output()
	return strings.TrimSpace(string(out))
}

// signalAll sends a signal to a process and its children.
func signalAll(pid int, signal syscall.Signal) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	_ = syscall.Kill(pid, signal)
	for _, file := range tasks {
		list, _ := os.ReadFile(file)
		for _, child := range strings.Fields(string(list)) {
			if n, err := strconv.Atoi(child); err == nil {
				_ = syscall.Kill(n, signal)
			}
		}
	}
}

// promote makes the standby the primary.
func (c *cluster) promote() {
	c.t.Helper()
	c.run("pg_ctl", "promote", "-D", c.data(1), "-w")
	c.primary.Store(1)
}

var processed = regexp.MustCompile(`number of transactions actually processed: (\d+)`)

// load runs clients for some seconds. Each is a pgbench that inserts 100 rows a
// second on one connection, and is started again when it has failed.
func (c *cluster) load(addr string, clients int, length time.Duration) (wait func()) {
	script := filepath.Join(c.t.TempDir(), "insert.sql")
	relaytest.Check(c.t, os.WriteFile(script, []byte("\\set n :n + 1\ninsert into journal (run, n) values (:run, :n);\n"), 0o644))
	host, port, _ := net.SplitHostPort(addr)
	pgbench := needs(c.t, "pgbench")
	end := time.Now().Add(length)
	c.end = end
	ctx, cancel := context.WithDeadline(context.Background(), end.Add(2*time.Second))
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
func (c *cluster) result() result {
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
	name string
	sync bool
	do   func(*cluster)
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
				c := startCluster(t, f.sync)
				addr := target.start(t, c)
				wait := c.load(addr, 4, 5*time.Second)
				relaytest.Eventually(t, "the clients to be served", func() bool {
					n, _ := strconv.Atoi(c.query(c.nodes[1], "select count(distinct run) from journal"))
					return n >= 4
				})
				c.primary.Store(-1)
				f.do(c)
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
				if f.sync && r.lost > 0 {
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
