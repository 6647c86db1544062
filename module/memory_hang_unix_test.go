//go:build unix

package module_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module/memory"
)

// makeHang makes loads of a key of the file system storage hang.
func makeHang(t *testing.T, file string) {
	t.Helper()
	relaytest.Check(t, os.MkdirAll(filepath.Dir(file), 0o700))
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	relaytest.Check(t, syscall.Mkfifo(file, 0o600)) // to open it waits for a writer
}

// A storage that hangs keeps a process neither from its start, nor from a reload, nor
// from its exit.
func TestProcessWithHangingStorage(t *testing.T) {
	one, _ := echoTCP(t, "one")
	two, _ := echoTCP(t, "two")
	at := freeAddr(t)
	layer4 := block("relay+tcp/"+at, one+" "+two+" {\n name s\n shutdown_timeout 1s\n }")
	r := startRemembering(t, "remember\n instance edge\n share f", layer4)
	r.await("a record", func(*memory.Record) bool { return true })
	r.kill()
	file := filepath.Join(r.storage, "relay", "memory", "edge.json")
	makeHang(t, file)
	makeHang(t, filepath.Join(r.storage, "relay", "fleet", "f", "changed"))
	began := time.Now()
	r.start()
	t.Logf("the start took %v", time.Since(began))
	if lines := r.awaitLines("memory unusable, starting without it", 1); len(lines) != 1 {
		t.Errorf("logged %v", lines)
	}
	relaytest.Eventually(t, "the first write", func() bool {
		info, err := os.Stat(file)
		return err == nil && info.Mode().IsRegular()
	})
	makeHang(t, file)
	relaytest.Check(t, r.post("/relay/services/s/backends/"+one+"/drain", "", nil))
	relaytest.Eventually(t, "the storage to be missed", func() bool { return len(r.lines("memory not written")) == 1 })
	began = time.Now()
	relaytest.Check(t, r.reload(strings.Replace(layer4, "shutdown_timeout 1s", "shutdown_timeout 2s", 1)))
	t.Logf("the reload took %v", time.Since(began))
	client := dial(t, "tcp", at)
	if got := ask(t, client, "x"); got != "two x" {
		t.Errorf("answer %q", got)
	}
	began = time.Now()
	r.exit()
	// The memory and the fleet wait two seconds each, the relay two.
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the exit took %v", took)
	} else {
		t.Logf("the exit took %v", took)
	}
}
