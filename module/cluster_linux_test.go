package module_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

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
}

// nodeIP returns the address of a node.
func nodeIP(i int) string { return fmt.Sprintf("127.0.0.%d", 1+i) }

// startCluster starts the databases. With synchronous, the primary confirms a transaction
// once the standby has it.
func startCluster(t *testing.T, synchronous bool) *cluster {
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
	if synchronous {
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
	all := []int{pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range tasks { // before the process ends: then it has no children any more
		list, _ := os.ReadFile(file)
		for _, child := range strings.Fields(string(list)) {
			if n, err := strconv.Atoi(child); err == nil {
				all = append(all, n)
			}
		}
	}
	for _, n := range all {
		_ = syscall.Kill(n, signal)
	}
}

// promote makes the standby the primary.
func (c *cluster) promote() {
	c.t.Helper()
	c.run("pg_ctl", "promote", "-D", c.data(1), "-w")
	c.primary.Store(1)
}
