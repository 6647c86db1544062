//go:build unix

package module_test

import (
	"os"
	"syscall"
	"testing"
)

// With --no-reload, SIGUSR1 still reloads the file, as it does for `caddy run`.
func TestAsyncRelayReloadsOnSIGUSR1(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	p := startAsyncRelay(t, a, "", "--no-reload", "--log-level", "DEBUG")
	p.wantAnswer("a x")
	p.waitFor(`"level":"debug"`)
	p.write(p.config(b, ""))
	waitSignals(t, os.Getenv("CADDY_ADMIN"))
	if err := p.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	p.waitFor("successfully reloaded config from file")
	p.wantAnswer("b x")
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if status := p.status(); status != 0 {
		t.Errorf("status %d", status)
	}
}
