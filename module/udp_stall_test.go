package module_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A client whose burst waits for a hanging lookup does not delay other clients of
// the same listener.
func TestHangingLookupDelaysNoOtherClient(t *testing.T) {
	good, _ := echoUDP(t, "good", freeAddr(t))
	at := freeAddr(t)
	start(t, fmt.Sprintf(`relay+udp/%s {
		@slow regexp ^SLOW 4
		route @slow {
			relay backend.example:53 {
				resolvers %s
				connect_timeout 1h
			}
		}
		route {
			relay %s
		}
	}`, at, silentUDP(t), good))
	slow, quick := dial(t, "udp", at), dial(t, "udp", at)
	if got := ask(t, quick, "begin"); got != "good begin" {
		t.Fatalf("got %q", got)
	}
	for i := range 200 {
		if _, err := fmt.Fprint(slow, "SLOW ", i); err != nil {
			t.Fatal(err)
		}
	}
	var took []time.Duration
	for i := range 100 {
		began := time.Now()
		text := fmt.Sprint("quick ", i)
		if got := ask(t, quick, text); got != "good "+text {
			t.Fatalf("got %q, want the answer to %q", got, text)
		}
		took = append(took, time.Since(began))
	}
	if got := ask(t, dial(t, "udp", at), "newcomer"); got != "good newcomer" {
		t.Errorf("a new client got %q", got)
	}
	slices.Sort(took)
	median, worst := took[50], took[99]
	t.Logf("100 answers: median %v, worst %v", median, worst)
	if median > time.Second || worst > relaytest.Limit/2 { // a busy machine is slow, too
		t.Errorf("answers took %v in the median, %v at worst", median, worst)
	}
}
