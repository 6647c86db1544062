package module_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/takeover"
	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/module/memory"
	"github.com/async-relay/caddy-relay/upstream"
)

// A process that replaces another one has the state that this hands over, whatever the
// record in the storage says: that may be older.
func TestUpgradeIgnoresTheMemory(t *testing.T) {
	one, _ := echoTCP(t, "one")
	two, _ := echoTCP(t, "two")
	at, storage := freeAddr(t), t.TempDir()
	u := startUpgradableWith(t, fmt.Sprintf("storage file_system %s\n relay {\n remember\n instance edge\n }", storage),
		block("relay+tcp/"+at, one+" "+two+" {\n name s\n shutdown_timeout 200ms\n }"))
	client := dial(t, "tcp", at)
	ask(t, client, "x")
	client.Close()
	file := filepath.Join(storage, "relay", "memory", "edge.json")
	relaytest.Eventually(t, "the first record", func() bool {
		_, err := os.Stat(file)
		return err == nil
	})
	stale := memory.Record{
		SavedAt: time.Now().Add(-time.Minute),
		Services: map[string]memory.Service{"name s": {
			Queue:     upstream.Saved{Backends: []upstream.SavedBackend{{Backend: two}, {Backend: one, Drained: true}}},
			HeldUntil: time.Now().Add(time.Hour),
		}},
		Counts: &memory.Counts{Services: map[string]handler.SavedCounts{"name s": {
			Backends: []handler.SavedBackend{{Backend: one, TCP: handler.SavedUse{Connections: 100}}},
		}}},
	}
	relaytest.Check(t, os.WriteFile(file, stale.Encode(), 0o600))
	u.mustUpgrade()
	var s api.Service
	u.must("GET", "services/s", &s)
	if s.Totals.Connections != 1 {
		t.Errorf("%d connections, want the one of the old process", s.Totals.Connections)
	}
	if !s.HeldTill.IsZero() {
		t.Errorf("held until %v", s.HeldTill)
	}
	if got := ask(t, dial(t, "tcp", at), "x"); got != "one x" {
		t.Errorf("answer %q", got)
	}
	if lines := u.lines("memory restored"); len(lines) != 0 {
		t.Errorf("logged %v", lines)
	}
}

// dyingGiver is an old process that is killed before it hands over its state. Its other
// methods are not called.
type dyingGiver struct {
	takeover.Giver
	die func()
}

func (dyingGiver) Shared() ([]takeover.Socket, error) { return nil, nil }

func (g dyingGiver) Suspend(context.Context) error {
	g.die()
	return errors.New("killed")
}

// A process that was to replace one that is killed meanwhile uses the memory.
func TestUpgradeOfKilledProcessUsesTheMemory(t *testing.T) {
	one, _ := echoTCP(t, "one")
	two, _ := echoTCP(t, "two")
	at := freeAddr(t)
	r := startRemembering(t, "remember\n instance edge", block("relay+tcp/"+at, one+" "+two+" {\n name s\n }"))
	relaytest.Check(t, r.post("/relay/services/s/backends/"+one+"/drain", "", nil))
	r.await("the drain", func(m *memory.Record) bool { return len(m.Services) == 1 })
	r.kill()
	near, far, err := takeover.NewConns()
	relaytest.Check(t, err)
	t.Setenv("RELAY_TAKEOVER_FD", "3")
	self, err := os.Executable()
	relaytest.Check(t, err)
	cmd := exec.Command(self, "run", "--config", r.config)
	cmd.ExtraFiles = []*os.File{far}
	r.process = spawn(t, "caddy", cmd)
	_ = far.Close()
	limits := takeover.Timeouts{Ready: relaytest.Limit, Step: relaytest.Limit}
	err = takeover.Give(near, takeover.Hello{PID: 1}, dyingGiver{die: func() { near.Close() }}, limits, func() {})
	if err == nil || err.Error() != "killed" {
		t.Fatalf("error %v", err)
	}
	r.waitRunning(t)
	relaytest.Eventually(t, "the end of the takeover", func() bool {
		return len(r.lines("the old process was killed during the takeover, its clients are lost")) == 1
	})
	if got := ask(t, dial(t, "tcp", at), "x"); got != "two x" {
		t.Errorf("answer %q", got)
	}
	if lines := r.lines("memory restored"); len(lines) != 1 {
		t.Errorf("logged %v", lines)
	}
}
