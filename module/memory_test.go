package module_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/module/memory"
	"github.com/async-relay/caddy-relay/upstream"
)

// After a kill, the order, a backend that is down, its cooldown, a strike and a drain are
// those of before.
func TestMemoryAfterKill(t *testing.T) {
	dead, struck := freeAddr(t), freeAddr(t)
	drained, _ := echoTCP(t, "drained")
	good, _ := echoTCP(t, "good")
	at := freeAddr(t)
	r := startRemembering(t, "remember", block("relay+tcp/"+at, strings.Join([]string{dead, drained, good, struck}, " ")+" {\n name s\n cooldown 10m\n }"))
	if got := ask(t, dial(t, "tcp", at), "x"); got != "drained x" {
		t.Fatalf("answer %q", got)
	}
	relaytest.Check(t, r.post("/relay/services/s/backends/"+drained+"/drain", "", nil))
	relaytest.Check(t, r.post("/relay/services/s/hold?for=1h", "", nil))
	relaytest.Check(t, r.post("/relay/services/s/release", "", nil))
	before := r.service()
	r.await("the drain", func(m *memory.Record) bool {
		queue := m.Services["name s"].Queue.Backends
		return len(queue) == 4 && queue[0].Drained
	})
	r.kill()
	r.start()
	after := r.service()
	if got, want := orderOf(after), orderOf(before); !slices.Equal(got, want) || want[3] != dead {
		t.Errorf("order %v, want %v", got, want)
	}
	last := after.Backends[3]
	if until := before.Backends[3].Cooling; last.State != api.StateCooling || last.Cooling.Sub(until).Abs() > time.Second {
		t.Errorf("%+v, want it to cool until %v", last, until)
	}
	if got := ask(t, dial(t, "tcp", at), "x"); got != "good x" {
		t.Errorf("answer %q", got)
	}
	if lines := r.awaitLines("memory restored", 1); len(lines) != 1 || lines[0]["services"] != 1.0 || lines[0]["counters"] != false {
		t.Errorf("logged %v", lines)
	}
	if got := r.service().Totals.Connections; got != 1 {
		t.Errorf("%d connections are counted after a kill, want the new one", got)
	}
	if r.record().Counts != nil {
		t.Error("the record of a running process has counters")
	}
}

// A start while the DNS is dead serves from the last answers, for names and for SRV
// targets, which keep their order.
func TestMemoryInDNSOutage(t *testing.T) {
	for name, fail := range map[string]func(z *zone){
		"refusing": func(z *zone) { z.fail(false) },
		"silent":   func(z *zone) { z.fail(true) },
	} {
		t.Run(name, func(t *testing.T) {
			port, at, atName := freePort(t), freeAddr(t), freeAddr(t)
			srv := "_db._tcp.memory.test"
			for _, ip := range []string{"127.0.0.2", "127.0.0.3"} {
				restartable(t, ip, port)
			}
			z := startZone(t, srvZone(srv, port, "ab")...)
			options := fmt.Sprintf(" {\n resolvers %s\n connect_timeout 20s\n name ", z.addr)
			r := startRemembering(t, "remember 10m", block("relay+tcp/"+at, "srv/"+srv+options+"s\n }")+block("relay+tcp/"+atName, fmt.Sprint("b.test:", port)+options+"n\n }"))
			if got := ask(t, dial(t, "tcp", at), "x") + ask(t, dial(t, "tcp", atName), "y"); got != "127.0.0.2 x127.0.0.3 y" {
				t.Fatalf("answers %q", got)
			}
			relaytest.Check(t, r.post(fmt.Sprintf("/relay/services/s/backends/a.test:%d/drain", port), "", nil))
			if got := ask(t, dial(t, "tcp", at), "x"); got != "127.0.0.3 x" { // now both targets are resolved
				t.Fatalf("answer %q", got)
			}
			r.await("the answers", func(m *memory.Record) bool {
				s, names := m.Services["name s"], 0
				for _, answers := range m.Names {
					names += len(answers)
				}
				return len(s.Targets[srv].List) == 2 && s.Queue.Backends != nil && names == 3
			})
			fail(z)
			r.kill()
			r.start()
			began := time.Now()
			if got := ask(t, dial(t, "tcp", at), "x") + ask(t, dial(t, "tcp", atName), "y"); got != "127.0.0.3 x127.0.0.3 y" {
				t.Errorf("answers %q", got)
			}
			if took := time.Since(began); took > 4*time.Second { // a lookup takes five
				t.Errorf("the clients waited %v", took)
			}
		})
	}
}

// After an orderly exit, the counters continue, of relays that were active at the
// signal too.
func TestMemoryAfterExit(t *testing.T) {
	good, _ := echoTCP(t, "good")
	at := freeAddr(t)
	r := startRemembering(t, "remember", block("relay+tcp/"+at, good+" {\n name s\n shutdown_timeout 20s\n }"))
	for range 3 {
		client := dial(t, "tcp", at)
		ask(t, client, "x")
		client.Close()
	}
	drains := dial(t, "tcp", at)
	ask(t, drains, "x")
	r.terminate()
	relaytest.Eventually(t, "the exit to begin", func() bool {
		answer, err := http.Get("http://" + r.admin + "/relay/health")
		if err == nil {
			answer.Body.Close()
		}
		return err == nil && answer.StatusCode == http.StatusServiceUnavailable
	})
	ask(t, drains, "more")
	drains.Close()
	if status := r.status(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	r.start()
	totals := r.service().Totals
	if want := (api.Totals{Connections: 4, BytesUp: 8, BytesDown: 33}); totals.Connections != want.Connections || totals.BytesUp != want.BytesUp || totals.BytesDown != want.BytesDown {
		t.Errorf("totals %+v, want %+v", totals, want)
	}
	client := dial(t, "tcp", at)
	ask(t, client, "x")
	metric := fmt.Sprintf(`caddy_layer4_relay_connections_total{backend="%s",network="tcp",service="s"} `, good)
	if text := r.scrape(); !strings.Contains(text, metric+"5\n") {
		t.Errorf("no %s5 in the metrics", metric)
	}
	client.Close()
	r.exit()
	r.start()
	if text := r.scrape(); !strings.Contains(text, metric+"5\n") {
		t.Errorf("no %s5 in the metrics after another restart", metric)
	}
	r.await("no counters", func(m *memory.Record) bool { return m.Counts == nil })
	r.kill()
	r.start()
	if text := r.scrape(); !strings.Contains(text, metric+"0\n") {
		t.Errorf("no %s0 in the metrics after a kill", metric)
	}
}

// A memory that cannot be used is one log line, and the process starts without it.
func TestMemoryUnusable(t *testing.T) {
	one, _ := echoTCP(t, "one")
	two, _ := echoTCP(t, "two")
	at := freeAddr(t)
	r := startRemembering(t, "remember 5m\n instance edge", block("relay+tcp/"+at, one+" "+two+" {\n name s\n }"))
	relaytest.Check(t, r.post("/relay/services/s/backends/"+one+"/drain", "", nil))
	r.await("the drain", func(m *memory.Record) bool { return len(m.Services) == 1 })
	r.exit()
	file := filepath.Join(r.storage, "relay", "memory", "edge.json")
	saved, err := os.ReadFile(file)
	relaytest.Check(t, err)
	change := func(old, new string) []byte {
		if !strings.Contains(string(saved), old) {
			t.Fatalf("%s does not contain %s", saved, old)
		}
		return []byte(strings.Replace(string(saved), old, new, 1))
	}
	record, err := memory.Decode(saved)
	relaytest.Check(t, err)
	record.SavedAt = record.SavedAt.Add(-6 * time.Minute)
	for name, test := range map[string]struct {
		text           []byte
		message, cause string
	}{
		"damaged": {saved[:len(saved)/2], "memory unusable, starting without it", "damaged"},
		"foreign": {[]byte(`{"a":1}`), "memory unusable, starting without it", "not a memory"},
		"newer":   {change(`"version":1`, `"version":9`), "memory unusable, starting without it", "newer version"},
		"too old": {record.Encode(), "memory too old, starting without it", ""},
	} {
		relaytest.Check(t, os.WriteFile(file, test.text, 0o600))
		seen := len(r.lines(test.message))
		r.start()
		if got := ask(t, dial(t, "tcp", at), "x"); got != "one x" {
			t.Errorf("%s: answer %q", name, got)
		}
		lines := r.awaitLines(test.message, seen+1)
		if len(lines) != seen+1 || !strings.Contains(fmt.Sprint(lines[seen]["error"]), test.cause) && test.cause != "" {
			t.Errorf("%s: logged %v", name, lines[seen:])
		}
		r.kill()
	}
	relaytest.Check(t, os.WriteFile(file, saved, 0o600)) // the test would pass without a memory otherwise
	r.start()
	if got := ask(t, dial(t, "tcp", at), "x"); got != "two x" {
		t.Errorf("answer %q", got)
	}
}

// A reload uses the state of the process, not the memory. Turned off by a reload, the
// memory is deleted, and it moves with its name. A rejected config writes nothing.
func TestMemoryAndReload(t *testing.T) {
	one, _ := echoTCP(t, "one")
	two, _ := echoTCP(t, "two")
	at := freeAddr(t)
	layer4 := block("relay+tcp/"+at, one+" "+two+" {\n name s\n }")
	r := startRemembering(t, "remember\n instance edge", layer4)
	drain := "/relay/services/s/backends/" + one
	relaytest.Check(t, r.post(drain+"/drain", "", nil))
	r.await("the drain", func(m *memory.Record) bool { return len(m.Services) == 1 })
	relaytest.Check(t, r.post(drain+"/resume", "", nil))
	layer4 = strings.Replace(layer4, "name s", "name s\n cooldown 1s", 1) // Caddy ignores a config that has not changed
	relaytest.Check(t, r.reload(layer4))                                  // the record may still have the drain
	if got := ask(t, dial(t, "tcp", at), "x"); got != "one x" {
		t.Errorf("answer %q", got)
	}
	r.await("no drain", func(m *memory.Record) bool { return len(m.Services) == 0 })

	options := func(text string) {
		r.more = fmt.Sprintf("storage file_system %s\n relay {\n %s\n }", r.storage, text)
	}
	options("remember\n instance other")
	taken := listenTCP(t)
	if err := r.reload(layer4 + block("relay+tcp/"+taken.Addr().String(), one)); err == nil {
		t.Error("a config with a taken address was accepted")
	}
	relaytest.Check(t, r.post(drain+"/drain", "", nil))
	r.await("another drain", func(m *memory.Record) bool { return len(m.Services) == 1 })
	if files := r.files(); len(files) != 1 || filepath.Base(files[0]) != "edge.json" {
		t.Errorf("files %v after a rejected config", files)
	}
	relaytest.Check(t, r.reload(layer4))
	relaytest.Eventually(t, "the new name", func() bool {
		files := r.files()
		return len(files) == 1 && filepath.Base(files[0]) == "other.json"
	})
	options("")
	relaytest.Check(t, r.reload(layer4))
	relaytest.Eventually(t, "the record to be deleted", func() bool { return len(r.files()) == 0 })
}

// Two instances of one machine have two memories, by their admin endpoints. If they are
// given the same name by mistake, the later one keeps it, and the other one says so.
func TestMemoryOfTwoInstances(t *testing.T) {
	one, _ := echoTCP(t, "one")
	two, _ := echoTCP(t, "two")
	a := startRemembering(t, "remember", block("relay+tcp/"+freeAddr(t), one+" "+two+" {\n name s\n }"))
	b := &rememberer{t: t, caddyProcess: &caddyProcess{server: newServer(t)}, storage: a.storage}
	b.config = filepath.Join(t.TempDir(), "config.json")
	b.write("remember", block("relay+tcp/"+freeAddr(t), one+" "+two+" {\n name s\n }"))
	b.start()
	relaytest.Eventually(t, "two records", func() bool { return len(a.files()) == 2 })
	for _, r := range []*rememberer{a, b} {
		_, port, _ := strings.Cut(r.admin, ":")
		if !slices.ContainsFunc(a.files(), func(file string) bool { return strings.HasSuffix(file, "_"+port+".json") }) {
			t.Errorf("no record of the instance at %s in %v", r.admin, a.files())
		}
	}
	for _, r := range []*rememberer{a, b} {
		r.more = fmt.Sprintf("storage file_system %s\n relay {\n remember\n instance same\n }", r.storage)
		relaytest.Check(t, r.reload(block("relay+tcp/"+freeAddr(t), one+" "+two+" {\n name s\n }")))
		relaytest.Eventually(t, "the common record", func() bool {
			return slices.ContainsFunc(a.files(), func(f string) bool { return filepath.Base(f) == "same.json" })
		})
		relaytest.Eventually(t, "the process's own record", func() bool {
			return r.record() != nil && r.record().Writer.PID == r.process.cmd.Process.Pid || len(a.files()) > 1
		})
	}
	relaytest.Eventually(t, "the record of the later process", func() bool {
		record := b.record()
		return record != nil && record.Writer.PID == b.process.cmd.Process.Pid
	})
	relaytest.Check(t, a.post("/relay/services/s/backends/"+one+"/drain", "", nil))
	relaytest.Eventually(t, "a warning", func() bool {
		lines := a.lines("memory not written")
		return len(lines) == 1 && strings.Contains(fmt.Sprint(lines[0]["error"]), "give each instance a name of its own")
	})
	if len(b.record().Services) != 0 {
		t.Error("the earlier process has overwritten the memory")
	}
	if lines := b.lines("memory not written"); len(lines) != 0 {
		t.Errorf("the later process logged %v", lines)
	}
}

// caddy validate neither writes a memory nor asks a DNS server.
func TestValidateLeavesMemoryAlone(t *testing.T) {
	z := startZone(t, "a.test. 60 IN A 127.0.0.1")
	at := freeAddr(t)
	r := startRemembering(t, "remember\n instance v", block("relay+tcp/"+at, fmt.Sprintf("a.test:%d {\n name s\n resolvers %s\n }", freePort(t), z.addr)))
	_ = dial(t, "tcp", at)
	r.await("the answer", func(m *memory.Record) bool { return len(m.Names) == 1 })
	r.kill()
	before, queries := r.record(), z.count()
	self, err := os.Executable()
	relaytest.Check(t, err)
	validate := spawn(t, "caddy", exec.Command(self, "validate", "--config", r.config))
	if status := validate.status(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if after := r.record(); !after.SavedAt.Equal(before.SavedAt) || z.count() != queries {
		t.Errorf("the record was written at %v, after %v; %d queries", after.SavedAt, before.SavedAt, z.count()-queries)
	}
}

// A process that takes the state of another one waits for a reading of the metrics
// without a lock that this needs: they would wait for each other.
func TestHandedOverStateAndMetrics(t *testing.T) {
	one, two := freeAddr(t), freeAddr(t)
	start(t, block("relay+tcp/"+freeAddr(t), one+" "+two+" {\n name s\n }"))
	unlock := module.LockLedger()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		module.TakeHandedOver(memory.Record{
			SavedAt:  time.Now(),
			Services: map[string]memory.Service{"name s": {Queue: upstream.Saved{Backends: []upstream.SavedBackend{{Backend: one, Drained: true}}}}},
			Counts:   &memory.Counts{Services: map[string]handler.SavedCounts{"name s": {}}},
		}.Encode())
	}()
	defer func() { <-ended }()
	defer unlock()
	relaytest.Eventually(t, "the queue to be restored", func() bool {
		return len(module.ServiceOf("s").Pool.Undrained()) == 1
	})
	relaytest.Eventually(t, "no lock of the services", module.ServicesUnlocked)
}

// The address of the admin endpoint in the name of a memory has its placeholders
// replaced: they may be all that two instances of a machine differ in.
func TestMemoryOfAdminPlaceholder(t *testing.T) {
	one, _ := echoTCP(t, "one")
	r := &rememberer{t: t, caddyProcess: &caddyProcess{server: newServer(t)}, storage: t.TempDir()}
	r.config = filepath.Join(t.TempDir(), "config.json")
	r.write("remember", block("relay+tcp/"+freeAddr(t), one))
	config, err := os.ReadFile(r.config)
	relaytest.Check(t, err)
	t.Setenv("RELAY_TEST_ADMIN", r.admin)
	config = []byte(strings.Replace(string(config), strconv.Quote(r.admin), `"{env.RELAY_TEST_ADMIN}"`, 1))
	relaytest.Check(t, os.WriteFile(r.config, config, 0o600))
	r.start()
	relaytest.Eventually(t, "a record", func() bool { return len(r.files()) == 1 })
	_, port, _ := strings.Cut(r.admin, ":")
	if file := r.files()[0]; !strings.HasSuffix(file, "_"+port+".json") {
		t.Errorf("the record is %s, want it to have the port %s", file, port)
	}
}

// A config without relays ends the memory, and the next one with relays begins with it,
// also with a change of the last moment.
func TestMemoryAfterConfigWithoutRelays(t *testing.T) {
	one, _ := echoTCP(t, "one")
	two, _ := echoTCP(t, "two")
	at := freeAddr(t)
	layer4 := block("relay+tcp/"+at, one+" "+two+" {\n name s\n }")
	r := startRemembering(t, "remember", layer4)
	r.await("the start", func(*memory.Record) bool { return true })
	with, err := r.adapt(layer4)
	relaytest.Check(t, err)
	for range 2 {
		for _, drained := range []string{one, two} {
			action, want := "/drain", "two x"
			if drained == two {
				action, want = "/resume", "one x"
			}
			relaytest.Check(t, r.post("/relay/services/s/backends/"+one+action, "", nil))
			relaytest.Check(t, r.post("/load", "application/json", fmt.Appendf(nil, `{"admin":{"listen":%q}}`, r.admin)))
			relaytest.Check(t, r.post("/load", "application/json", with))
			loaded := time.Now()
			client := dial(t, "tcp", at)
			if got := ask(t, client, "x"); got != want {
				t.Errorf("answer %q, want %q", got, want)
			}
			client.Close()
			relaytest.Eventually(t, "the client to end", func() bool { return r.service().Active.TCP == 0 })
			r.await("the new config", func(m *memory.Record) bool { return m.SavedAt.After(loaded) })
		}
	}
}
