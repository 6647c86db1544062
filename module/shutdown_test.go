package module_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// drained checks the line that a process logs about its relays at exit.
func (p *caddyProcess) drained(finished, cut int) {
	p.process.t.Helper()
	lines := p.lines("relays drained")
	if len(lines) != 1 || lines[0]["finished"] != float64(finished) || lines[0]["cut"] != float64(cut) || lines[0]["level"] != "info" {
		p.process.t.Errorf("drained: %v, want one line with %d finished, %d cut", lines, finished, cut)
	}
}

// refused waits until nothing listens at addr. It does not connect, because a
// client could still become a relay at the last moment.
func refused(t *testing.T, addr string) {
	t.Helper()
	relaytest.Eventually(t, "the listener to close", func() bool { return canBind(addr) })
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Error("a new client was let in")
	}
}

func TestExitWithoutRelays(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	echoUDP(t, "b", backend)
	at := freeAddr(t)
	p := startProcess(t, bothAt(at, backend+" {\n shutdown_timeout 1m\n udp_responses 1\n }"), 0)
	conn := dial(t, "tcp", at) // an ended relay does not count
	ask(t, conn, "x")
	conn.Close()
	ask(t, dial(t, "udp", at), "x")
	relaytest.Eventually(t, "both relays to end", func() bool { return len(p.lines("relay ended")) == 2 })
	began := time.Now()
	p.terminate()
	if status := p.status(); status != 0 {
		t.Errorf("status %d", status)
	}
	t.Logf("exit took %v", time.Since(began))
	if got := p.lines("relays drained"); len(got) != 0 {
		t.Errorf("nothing was to be drained: %v", got)
	}
}

// A transfer that is in progress when the process gets SIGTERM completes.
func TestExitLetsRelaysFinish(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		ln := listenTCP(t)
		at := freeAddr(t)
		// grace_period applies to services that a reload removes, not to an exit.
		p := startProcess(t, block("TCP/"+at, ln.Addr().String()+" {\n grace_period 100ms\n }"), 0)
		client := dial(t, "tcp", at)
		backend := accept(t, ln)
		if _, err := io.WriteString(backend, "begin"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(client, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		p.terminate()
		refused(t, at)
		time.Sleep(300 * time.Millisecond) // the test is about the passing of time
		all := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		go func() {
			_, _ = backend.Write(all)
			backend.Close()
		}()
		got, err := io.ReadAll(client)
		if err != nil || !bytes.Equal(got, all) {
			t.Errorf("the client got %d bytes of %d, %v", len(got), len(all), err)
		}
		client.Close()
		if status := p.status(); status != 0 {
			t.Errorf("status %d", status)
		}
		p.drained(1, 0)
	})
}

func TestExitCutsTheRest(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		ln := listenTCP(t)
		at := freeAddr(t)
		p := startProcess(t, block("TCP/"+at, ln.Addr().String()+" {\n shutdown_timeout 500ms\n }"), 0)
		client := dial(t, "tcp", at)
		backend := accept(t, ln)
		began := time.Now()
		p.terminate()
		reset(t, client)
		reset(t, backend)
		if took := time.Since(began); took < 500*time.Millisecond || took > 7*time.Second {
			t.Errorf("cut after %v, want 500ms", took)
		}
		if status := p.status(); status != 0 {
			t.Errorf("status %d", status)
		}
		p.drained(0, 1)
	})
}

// At exit, active UDP sessions continue, and quiet ones end.
func TestExitDrainsSessions(t *testing.T) {
	backend := echoSource(t, freeAddr(t))
	at := freeAddr(t)
	p := startProcess(t, block("relay+udp/"+at, backend+" {\n shutdown_timeout 20s\n }"), 0)
	conn := dial(t, "udp", at)
	source := ask(t, conn, "who?")
	p.terminate()
	for began := time.Now(); time.Since(began) < 1500*time.Millisecond; time.Sleep(5 * time.Millisecond) { // longer than a quiet session lives
		if got := ask(t, conn, "who?"); got != source {
			t.Fatalf("the session came from %s and now from %s", source, got)
		}
	}
	if status := p.status(); status != 0 { // exits once the session is quiet
		t.Errorf("status %d", status)
	}
	p.drained(1, 0)
}

// Relays of all configs are drained in parallel: of the config before a reload, and
// of a service that a reload removed, each within its own timeout.
func TestExitDrainsAllConfigs(t *testing.T) {
	lns := []*net.TCPListener{listenTCP(t), listenTCP(t), listenTCP(t)}
	var at []string
	var clients, backends []*net.TCPConn
	for range lns {
		at = append(at, freeAddr(t))
	}
	service := func(i int, more string) string {
		return block("relay+tcp/"+at[i], fmt.Sprintf("%s {\n name s%d\n %s\n }", lns[i].Addr(), i, more))
	}
	enter := func(i int) {
		clients = append(clients, dial(t, "tcp", at[i]).(*net.TCPConn))
		backends = append(backends, accept(t, lns[i]))
	}
	p := startProcess(t, service(0, "shutdown_timeout 1m")+service(1, "shutdown_timeout 500ms"), 0)
	enter(0)
	enter(1)
	p.mustReload(service(0, "shutdown_timeout 15s")) // removes the second service
	enter(0)
	p.mustReload(service(0, "shutdown_timeout 20s") + service(2, "shutdown_timeout 1m"))
	enter(2)
	p.mustReload(service(0, "shutdown_timeout 20s") + service(2, "shutdown_timeout 300ms")) // applies to existing relays, too
	p.terminate()
	reset(t, clients[1]) // of the removed service
	reset(t, backends[1])
	reset(t, clients[3])
	for _, i := range []int{0, 2} {
		if _, err := io.WriteString(backends[i], "bye"); err != nil {
			t.Fatal(err)
		}
		backends[i].Close()
		if got, err := io.ReadAll(clients[i]); err != nil || string(got) != "bye" {
			t.Errorf("relay %d: got %q, %v", i, got, err)
		}
		clients[i].Close()
	}
	if status := p.status(); status != 0 {
		t.Errorf("status %d", status)
	}
	p.drained(2, 2)
}
