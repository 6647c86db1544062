package module_test

import (
	"fmt"
	"testing"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/module"
)

// The journal says why the queue stands as it does, which a failback is a
// reason for.
func TestFailbackIsInTheJournal(t *testing.T) {
	a, b, at := newMortal(t), newMortal(t), freeAddr(t)
	start(t, block("TCP/"+at, fmt.Sprintf("%s %s {\n name told\n %s failback\n }", a.addr, b.addr, quickly)))
	order := func() []string { return module.ServiceOf("told").Pool.Order() }
	a.kill()
	eventually(t, "the demotion", func() bool { return order()[0] == b.addr })
	a.rise()
	eventually(t, "the failback", func() bool { return order()[0] == a.addr })
	entries := module.ServiceOf("told").Journal.Entries()
	if last := entries[len(entries)-1]; last.Kind != handler.KindFailback || last.Backend != a.addr {
		t.Errorf("the last entry: %v", last)
	}
}
