package module_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Edits lose no client: neither those that are connected, nor those that come while
// the config is replaced.
func TestOriginalEditsLoseNoClient(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	p := startPage(t, "", a, b)
	old := dial(t, "tcp", p.at)
	if got := ask(t, old, "first"); got != "a first" {
		t.Errorf("got %q", got)
	}
	var served atomic.Int64
	stop := make(chan struct{})
	failures := make(chan error, 4)
	var workers sync.WaitGroup
	for range cap(failures) {
		workers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := echoOnce(p.at); err != nil {
					failures <- err
					return
				}
				served.Add(1)
			}
		})
	}
	for i := range 12 {
		config, _ := p.config()
		service := firstService(config)
		service["backends"] = []string{[]string{a, b}[(i+1)%2], []string{a, b}[i%2]}
		service["backend_cooldown"] = i + 1
		p.put(config).want(t, 200)
		before := served.Load()
		relaytest.Eventually(t, "clients after the edit", func() bool { return served.Load() >= before+8 || len(failures) > 0 })
	}
	close(stop)
	workers.Wait()
	select {
	case err := <-failures:
		t.Errorf("a client of %d was lost: %v", served.Load(), err)
	default:
	}
	if got := ask(t, old, "last"); got != "a last" {
		t.Errorf("got %q", got)
	}
	t.Logf("%d clients, 12 edits", served.Load())
}

// echoOnce is one client with one exchange.
func echoOnce(addr string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
	if _, err := io.WriteString(conn, "ping"); err != nil {
		return err
	}
	answer := make([]byte, 6)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if !bytes.HasSuffix(answer, []byte("ping")) {
		return fmt.Errorf("got %q", answer)
	}
	return nil
}

// Of edits that were made from the same settings, one is applied. The others are told
// so, and the file has what runs.
func TestOriginalConcurrentEdits(t *testing.T) {
	a, _ := echoTCP(t, "a")
	p := startPage(t, "", a)
	config, _ := p.config()
	etag := p.do("GET", "/api/config", "").header.Get("ETag")
	const edits = 6
	var statuses [edits + 2]int
	var wait sync.WaitGroup
	for i := range statuses {
		body := fmt.Sprintf(`{"services":[{"name":"edit-%d","protocol":"tcp","listen":{"address":"127.0.0.1","port":%v},"backends":["%s"]}]}`,
			i, firstService(config)["listen"].(jsonObject)["port"], a)
		wait.Go(func() {
			if i < edits {
				statuses[i] = p.do("PUT", "/api/config", body, "If-Match", etag).status
			} else { // reloads of the file between them
				statuses[i] = p.do("POST", "/api/config/reload", "").status
			}
		})
	}
	wait.Wait()
	applied := slices.Index(statuses[:edits], 200)
	for i, status := range statuses {
		if i != applied && i < edits && status != 409 && status != 412 || i >= edits && status != 200 && status != 409 {
			t.Errorf("request %d: status %d", i, status)
		}
	}
	if applied < 0 {
		t.Fatalf("no edit was applied: %v", statuses)
	}
	want := fmt.Sprintf("edit-%d", applied)
	if after, source := p.config(); source != "ui_modified" || firstService(after)["name"] != want {
		t.Errorf("applied %s, shown %v", want, after)
	}
	if got := p.service(want); len(got.Backends) != 1 || !bytes.Contains([]byte(p.runtime()), []byte(want)) {
		t.Errorf("runs %+v, saved\n%s", got, p.runtime())
	}
	if got := ask(t, dial(t, "tcp", p.at), "x"); got != "a x" {
		t.Errorf("got %q", got)
	}
}
