package module_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A process with a relay collects no garbage below a heap of 32 MB, unless that would be a
// large part of its memory limit.
func TestHeapFloor(t *testing.T) {
	for limit, want := range map[string]bool{"256MiB": true, "255MiB": false} {
		t.Run(limit, func(t *testing.T) {
			t.Setenv("GOMEMLIMIT", limit)
			backend, _ := echoTCP(t, "a")
			p := startProcess(t, block("relay+tcp/"+freeAddr(t), backend), 0)
			const next = "go_memstats_next_gc_bytes "
			var at float64
			has := func() bool {
				answer, err := http.Get("http://" + p.admin + "/metrics")
				relaytest.Check(t, err)
				defer answer.Body.Close()
				text, err := io.ReadAll(answer.Body)
				relaytest.Check(t, err)
				_, value, _ := strings.Cut(string(text), "\n"+next)
				_, err = fmt.Sscan(value, &at)
				relaytest.Check(t, err)
				return at >= 32<<20
			}
			if want {
				relaytest.Eventually(t, "the heap floor to count", has) // a collection has to see it
			} else if has() {
				t.Errorf("the next collection is at %.0f bytes", at)
			}
		})
	}
}
