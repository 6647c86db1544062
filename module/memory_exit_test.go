package module_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module/memory"
)

func init() { caddy.RegisterModule(gate{}) }

// gate is an app whose start creates the file Started and waits for the file Open.
type gate struct{ Started, Open string }

func (gate) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "relay_test_gate", New: func() caddy.Module { return new(gate) }}
}

func (g *gate) Start() error {
	if err := os.WriteFile(g.Started, nil, 0o600); err != nil {
		return err
	}
	for !exists(g.Open) {
		time.Sleep(time.Millisecond)
	}
	return nil
}

func (*gate) Stop() error { return nil }

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// A process that is ended during a reload writes its memory like any other one.
func TestMemoryAfterExitDuringReload(t *testing.T) {
	good, _ := echoTCP(t, "good")
	at, dir := freeAddr(t), t.TempDir()
	layer4 := block("relay+tcp/"+at, good+" {\n name s\n shutdown_timeout 20s\n }")
	r := startRemembering(t, "remember", layer4)
	client := dial(t, "tcp", at)
	ask(t, client, "x")
	r.await("no counters", func(m *memory.Record) bool { return m.Counts == nil })

	g := gate{Started: filepath.Join(dir, "started"), Open: filepath.Join(dir, "open")}
	text, err := json.Marshal(g)
	relaytest.Check(t, err)
	config, err := r.adapt(layer4)
	relaytest.Check(t, err)
	config = bytes.Replace(config, []byte(`"apps":{`), fmt.Appendf(nil, `"apps":{"relay_test_gate":%s,`, text), 1)
	reloaded := make(chan struct{})
	go func() {
		defer close(reloaded)
		_ = r.post("/load", "application/json", config) // the process may exit before it answers
	}()
	relaytest.Eventually(t, "the reload to begin", func() bool { return exists(g.Started) })
	r.terminate()
	relaytest.Eventually(t, "the exit to begin", func() bool {
		answer, err := http.Get("http://" + r.admin + "/relay/health")
		if err == nil {
			answer.Body.Close()
		}
		return err == nil && answer.StatusCode == http.StatusServiceUnavailable
	})
	relaytest.Check(t, os.WriteFile(g.Open, nil, 0o600))
	<-reloaded
	client.Close()
	if status := r.status(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if record := r.record(); record.Counts == nil || record.Counts.Services["name s"].Backends[0].TCP.Connections != 1 {
		t.Errorf("counters %+v", record.Counts)
	}
}
