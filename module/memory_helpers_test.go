package module_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/module/memory"
)

// rememberer is a Caddy in another process that can be restarted. All of its processes
// have the same config file and storage.
type rememberer struct {
	*caddyProcess
	t       *testing.T
	config  string // the file
	storage string // the folder
}

// startRemembering starts a process with these options of the app.
func startRemembering(t *testing.T, options, layer4 string) *rememberer {
	t.Helper()
	r := &rememberer{t: t, caddyProcess: &caddyProcess{server: newServer(t)}, storage: t.TempDir()}
	r.config = filepath.Join(t.TempDir(), "config.json")
	r.write(options, layer4)
	r.start()
	return r
}

// write writes the config file.
func (r *rememberer) write(options, layer4 string) {
	r.t.Helper()
	r.more = fmt.Sprintf("storage file_system %s\n relay {\n %s\n }", r.storage, options)
	config, err := r.adapt(layer4)
	relaytest.Check(r.t, err)
	relaytest.Check(r.t, os.WriteFile(r.config, config, 0o600))
}

func (r *rememberer) start() {
	r.t.Helper()
	self, err := os.Executable()
	relaytest.Check(r.t, err)
	r.process = spawn(r.t, "caddy", exec.Command(self, "run", "--config", r.config))
	r.waitRunning(r.t)
}

// kill ends the process as a crash would.
func (r *rememberer) kill() {
	r.t.Helper()
	relaytest.Check(r.t, r.process.cmd.Process.Kill())
	<-r.process.ended
}

// exit ends the process orderly.
func (r *rememberer) exit() {
	r.t.Helper()
	r.terminate()
	if status := r.status(); status != 0 {
		r.t.Errorf("exit status %d", status)
	}
}

// files returns the records in the storage, without those that are being written.
func (r *rememberer) files() []string {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(r.storage, "relay", "memory", "*.json"))
	relaytest.Check(r.t, err)
	return files
}

// record returns the record in the storage, or nil if there is none.
func (r *rememberer) record() *memory.Record {
	r.t.Helper()
	files := r.files()
	if len(files) != 1 {
		return nil
	}
	text, err := os.ReadFile(files[0])
	relaytest.Check(r.t, err)
	record, err := memory.Decode(text)
	relaytest.Check(r.t, err)
	return record
}

// await waits until the record fulfils a condition.
func (r *rememberer) await(what string, is func(*memory.Record) bool) {
	r.t.Helper()
	relaytest.Eventually(r.t, "a memory with "+what, func() bool {
		record := r.record()
		return record != nil && is(record)
	})
}

// service returns the only service.
func (r *rememberer) service() api.Service {
	r.t.Helper()
	var list []api.Service
	answer, err := http.Get("http://" + r.admin + "/relay/services")
	relaytest.Check(r.t, err)
	defer answer.Body.Close()
	relaytest.Check(r.t, json.NewDecoder(answer.Body).Decode(&list))
	if len(list) != 1 {
		r.t.Fatalf("%d services", len(list))
	}
	return list[0]
}

func orderOf(s api.Service) (order []string) {
	for _, b := range s.Backends {
		order = append(order, b.Address)
	}
	return order
}

func (r *rememberer) scrape() string {
	r.t.Helper()
	text, err := readMetrics("http://" + r.admin + "/metrics")
	relaytest.Check(r.t, err)
	return text
}
