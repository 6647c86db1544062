package module_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module/api"
)

// upgradable is a Caddy in another process that can be replaced. All processes that
// replace it end with the test.
type upgradable struct {
	*caddyProcess
	config string // the file
	pid    int    // of the latest process
}

// startUpgradable starts a process with more flags.
func startUpgradable(t *testing.T, layer4 string, flags ...string) *upgradable {
	t.Helper()
	return startUpgradableWith(t, "", layer4, flags...)
}

// startUpgradableWith is startUpgradable with more global options.
func startUpgradableWith(t *testing.T, more, layer4 string, flags ...string) *upgradable {
	t.Helper()
	s := newServer(t)
	s.more = more
	u := &upgradable{config: filepath.Join(t.TempDir(), "config.json")}
	u.caddyProcess = &caddyProcess{server: s}
	u.writeConfig(layer4)
	self, err := os.Executable()
	relaytest.Check(t, err)
	cmd := exec.Command(self, append([]string{"run", "--config", u.config}, flags...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that all can be ended
	u.process = spawn(t, "caddy", cmd)
	u.pid = cmd.Process.Pid
	group := u.pid
	t.Cleanup(func() { _ = syscall.Kill(-group, syscall.SIGKILL) })
	u.waitRunning(t)
	return u
}

func (u *upgradable) writeConfig(layer4 string) {
	config, err := u.adapt(layer4)
	relaytest.Check(u.server.t, err)
	relaytest.Check(u.server.t, os.WriteFile(u.config, config, 0o600))
}

// upgrade replaces the process.
func (u *upgradable) upgrade() error {
	var done api.Upgrade
	text, err := u.request("/relay/upgrade", "", nil)
	if err == nil {
		err = json.Unmarshal(text, &done)
	}
	if err != nil {
		return err
	}
	if done.OldPID != u.pid || done.NewPID == u.pid || done.NewPID == 0 {
		return fmt.Errorf("process %d answers that %d has replaced %d", u.pid, done.NewPID, done.OldPID)
	}
	u.pid = done.NewPID
	return nil
}

func (u *upgradable) mustUpgrade() {
	u.server.t.Helper()
	relaytest.Check(u.server.t, u.upgrade())
}

// alive reports whether a process runs.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// upgradeRounds returns how many upgrades a test makes, and their interval.
func upgradeRounds(t *testing.T) (rounds int, interval time.Duration) {
	t.Helper()
	length, long := soak(t, 3*time.Second)
	rounds = 3
	if long {
		rounds = 10
	}
	return rounds, length / time.Duration(rounds)
}

// Upgrades cost no client anything: no connection, no datagram, no byte of a transfer,
// no source port of a session.
func TestUpgradesLoseNothing(t *testing.T) {
	rounds, interval := upgradeRounds(t)
	backend, _ := echoTCP(t, "b")
	sources := sourcesOf(t, backend)
	sink := listenTCP(t)
	at, bulk := freeAddr(t), freeAddr(t)
	options := " {\n shutdown_timeout 10m\n name "
	u := startUpgradable(t, block("relay+tcp/"+at+" relay+udp/"+at, backend+options+"echo\n }")+block("relay+tcp/"+bulk, sink.Addr().String()+options+"bulk\n }"))

	f := newTraffic()
	f.connect(8, at, 0)
	f.talk(talkers, at)
	var transfers []<-chan error // paced by stalls, so that they last for an upgrade
	transfer := func() {
		client := dial(t, "tcp", bulk).(*net.TCPConn)
		far := accept(t, sink)
		_ = client.SetDeadline(time.Now().Add(10 * time.Minute))
		transfers = append(transfers, relaytest.Transfer(client, far, 64<<20, true), relaytest.Transfer(far, client, 64<<20, true))
	}
	pids := []int{u.pid}
	for range rounds {
		transfer()
		time.Sleep(interval)
		u.mustUpgrade()
		pids = append(pids, u.pid)
	}
	time.Sleep(interval)
	f.end()
	for i, done := range transfers {
		if err := relaytest.Receive(t, "the end of a transfer", done); err != nil {
			t.Errorf("transfer %d: %v", i, err)
		}
	}
	t.Logf("%d upgrades in %v: %v; %d UDP clients, seen as %d; %d transfers of 64 MiB", rounds, interval*time.Duration(rounds+1), f, talkers, sources(), len(transfers))
	if f.refused.Load()+f.broken.Load()+f.lost.Load() > 0 || f.connects.Load() == 0 {
		t.Errorf("something was lost: %v", f)
	}
	if got := sources(); got != talkers {
		t.Errorf("the backend saw %d clients from %d addresses", talkers, got)
	}
	if n := len(u.awaitLines("replaced another process", rounds)); n != rounds {
		t.Errorf("%d takeovers were logged", n)
	}
	// The sessions of the first process keep it alive; those in between have no relays left.
	for _, pid := range pids[1:rounds] {
		relaytest.Eventually(t, "a process without relays to exit", func() bool { return !alive(pid) })
	}
	if !alive(pids[0]) || !alive(u.pid) {
		t.Error("the first or the last process has exited")
	}
}

// The old process ends its sessions at their shutdown_timeout, and the clients get new
// ones from the new process without a loss.
func TestUpgradeTimeout(t *testing.T) {
	backend := echoSource(t, freeAddr(t))
	ln := listenTCP(t)
	at := freeAddr(t)
	u := startUpgradable(t, block("relay+udp/"+at, backend+" {\n shutdown_timeout 2s\n }")+block("relay+tcp/"+at, ln.Addr().String()+" {\n shutdown_timeout 2s\n }"))
	old := u.pid
	session, stream := dial(t, "udp", at), dial(t, "tcp", at)
	accept(t, ln)
	source := ask(t, session, "who?")
	began := time.Now()
	u.mustUpgrade()
	for ask(t, session, "who?") == source { // each datagram must be answered
		if time.Since(began) > relaytest.Limit {
			t.Fatal("the session does not end")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("the session ended after %v", took)
	}
	reset(t, stream)
	relaytest.Eventually(t, "the old process to exit", func() bool { return !alive(old) })
	if lines := u.lines("relays drained"); len(lines) != 1 || lines[0]["cut"] != 2.0 {
		t.Errorf("drained: %v", lines)
	}
}

// The session of a client that is silent for a while keeps its source port, also on a
// wildcard address, and answers come from the address that the client knows.
func TestUpgradeKeepsQuietSessions(t *testing.T) {
	backend := echoSource(t, freeAddr(t))
	port := freePort(t)
	u := startUpgradable(t, block(fmt.Sprintf("relay+udp/:%d", port), backend+" {\n shutdown_timeout 1m\n }"))
	conn := dial(t, "udp", fmt.Sprintf("127.0.0.9:%d", port)) // receives from this address only
	source := ask(t, conn, "who?")
	for range 2 {
		u.mustUpgrade()
		time.Sleep(1500 * time.Millisecond) // an exit would end the session after a second
		if got := ask(t, conn, "who?"); got != source {
			t.Errorf("the session came from %s and now from %s", source, got)
		}
	}
}

// A new process that cannot serve changes nothing, and the reason is reported.
func TestUpgradeFails(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	sources := sourcesOf(t, backend)
	at, other, taken := freeAddr(t), freeAddr(t), freeAddr(t)
	config := bothAt(at, backend+" {\n shutdown_timeout 200ms\n }")
	pidFile := filepath.Join(t.TempDir(), "pid")
	u := startUpgradable(t, config, "--pidfile", pidFile)
	startHolder(t, taken)
	pid, session, stream := u.pid, dial(t, "udp", at), dial(t, "tcp", at)
	for name, test := range map[string]struct {
		spoil func()
		want  string
	}{
		"broken config":   {func() { relaytest.Check(t, os.WriteFile(u.config, []byte("{"), 0o600)) }, "new process failed: "},
		"no config":       {func() { relaytest.Check(t, os.Remove(u.config)) }, "no such file"},
		"another address": {func() { u.writeConfig(bothAt(other, backend)) }, "does not list relay+tcp/" + at + ", relay+udp/" + at},
		"one address":     {func() { u.writeConfig(block("relay+tcp/"+at, backend)) }, "does not list relay+udp/" + at + ", but"},
		"taken address":   {func() { u.writeConfig(config + block("relay+tcp/"+taken, backend)) }, "holds tcp " + taken},
	} {
		test.spoil()
		if err := u.upgrade(); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "409") {
			t.Errorf("%s: error %v, want it to contain %q", name, err, test.want)
		}
		ask(t, session, "x")
		ask(t, stream, "x")
		ask(t, dial(t, "tcp", at), "x")
		ask(t, dial(t, "udp", at), "x")
		if text, err := os.ReadFile(pidFile); err != nil || strings.TrimSpace(string(text)) != strconv.Itoa(pid) {
			t.Errorf("%s: pidfile %q, %v, want %d", name, text, err, pid)
		}
	}
	if got := sources(); got != 6 {
		t.Errorf("the backend saw 6 clients from %d addresses", got)
	}
	if lines := u.awaitLines("upgrade failed, this process continues", 5); len(lines) != 5 {
		t.Errorf("logged: %v", lines)
	}
	u.writeConfig(config)
	u.mustUpgrade()
	relaytest.Eventually(t, "the new process to write the pidfile", func() bool {
		text, err := os.ReadFile(pidFile)
		return err == nil && strings.TrimSpace(string(text)) == strconv.Itoa(u.pid)
	})
	// SIGTERM for the old process must not remove the pidfile of the new one.
	relaytest.Check(t, syscall.Kill(pid, syscall.SIGTERM))
	relaytest.Eventually(t, "the old process to exit", func() bool { return !alive(pid) })
	if _, err := os.Stat(pidFile); err != nil {
		t.Error(err)
	}
	ask(t, dial(t, "tcp", at), "x")
}

// Only one upgrade runs at a time. The others are refused, and change nothing.
func TestUpgradesAtOnce(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	at := freeAddr(t)
	u := startUpgradable(t, block("relay+tcp/"+at, backend))
	var all sync.WaitGroup
	var mu sync.Mutex
	results := make(map[int]int)
	for range 6 {
		all.Go(func() {
			answer, err := http.Post("http://"+u.admin+"/relay/upgrade", "", nil)
			if err != nil {
				return // came when the endpoint moved to the new process
			}
			answer.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			results[answer.StatusCode]++
		})
	}
	all.Wait()
	if results[http.StatusOK] == 0 || results[http.StatusOK]+results[http.StatusConflict] > 6 {
		t.Errorf("answers by status: %v", results)
	}
	relaytest.Eventually(t, "a line of each new process", func() bool { return results[http.StatusOK] == len(u.lines("replaced another process")) })
	ask(t, dial(t, "tcp", at), "x")
}

// SIGUSR2 upgrades too. What operators did is kept, and so is the admin endpoint.
func TestUpgradeOnSignal(t *testing.T) {
	one, _ := echoTCP(t, "one")
	two, _ := echoTCP(t, "two")
	at := freeAddr(t)
	u := startUpgradable(t, block("relay+tcp/"+at, one+" "+two+" {\n name s\n shutdown_timeout 200ms\n }"))
	relaytest.Check(t, u.post("/relay/services/s/backends/"+one+"/drain", "", nil))
	if got := ask(t, dial(t, "tcp", at), "x"); got != "two x" {
		t.Errorf("answer %q", got)
	}
	relaytest.Check(t, syscall.Kill(u.pid, syscall.SIGUSR2))
	relaytest.Eventually(t, "the takeover", func() bool { return len(u.lines("replaced another process")) == 1 })
	if got := ask(t, dial(t, "tcp", at), "x"); got != "two x" {
		t.Errorf("a drained backend answers: %q", got)
	}
	relaytest.Eventually(t, "the first process to exit", func() bool { return !alive(u.pid) })
	relaytest.Check(t, u.post("/relay/services/s/backends/"+one+"/resume", "", nil))
	if got := ask(t, dial(t, "tcp", at), "x"); got != "one x" {
		t.Errorf("answer %q", got)
	}
}

// A drained target of SRV records stays drained, although the new process takes the
// sockets before it knows the targets.
func TestUpgradeKeepsDrainedTargets(t *testing.T) {
	port, at := freePort(t), freeAddr(t)
	srv := "_db._tcp.drained.test"
	for _, ip := range []string{"127.0.0.2", "127.0.0.3"} {
		restartable(t, ip, port)
	}
	z := startZone(t, srvZone(srv, port, "ab")...)
	u := startUpgradable(t, block("relay+tcp/"+at, fmt.Sprintf("srv/%s {\n name s\n resolvers %s\n shutdown_timeout 200ms\n }", srv, z.addr)))
	if got := ask(t, dial(t, "tcp", at), "x"); got != "127.0.0.2 x" {
		t.Fatalf("answer %q", got)
	}
	relaytest.Check(t, u.post(fmt.Sprintf("/relay/services/s/backends/a.test:%d/drain", port), "", nil))
	z.hold(true)
	u.mustUpgrade()
	waits := dial(t, "tcp", at)
	_, err := waits.Write([]byte("x"))
	relaytest.Check(t, err)
	z.hold(false)
	buf := make([]byte, 100)
	if n, err := waits.Read(buf); err != nil || string(buf[:n]) != "127.0.0.3 x" {
		t.Errorf("answer %q, error %v", buf[:n], err)
	}
	if got := ask(t, dial(t, "tcp", at), "x"); got != "127.0.0.3 x" {
		t.Errorf("a drained target answers: %q", got)
	}
}

func killProcess(pid int) { _ = syscall.Kill(pid, syscall.SIGKILL) }
