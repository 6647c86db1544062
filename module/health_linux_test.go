package module_test

import (
	"fmt"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// silentTCP returns an address that does not answer a connect, because the queue
// of its listener is full.
func silentTCP(t *testing.T) string {
	t.Helper()
	ln := listenTCP(t)
	relaytest.FillBacklog(t, ln)
	return ln.Addr().String()
}

// The failure of a client and that of a probe are two strikes. The client that
// waits for the backend continues with the next one at once.
func TestStrikesOfClientsAndProbesAddUp(t *testing.T) {
	silent, at := silentTCP(t), freeAddr(t)
	good, _ := echoTCP(t, "good")
	config := func(probes string) string {
		return block("TCP/"+at, fmt.Sprintf("%s %s {\n name shared\n connect_timeout 3s\n %s }", silent, good, probes))
	}
	s := start(t, config(""))
	client := dial(t, "tcp", at)
	relaytest.Eventually(t, "the client's strike", func() bool { return len(s.lines("backend failed, first strike")) == 1 })
	s.mustReload(config("health_check 20ms {\n timeout 20ms\n }\n"))
	if got := ask(t, client, "x"); got != "good x" {
		t.Errorf("got %q", got)
	}
	if line := s.lines("backend failed, first strike")[0]; line["client"] != client.LocalAddr().String() {
		t.Errorf("the first strike: %v", line)
	}
	relaytest.Eventually(t, "the second strike to be logged", func() bool { return len(s.lines("backend failed, second strike")) > 0 })
	if probes, clients := s.linesBy("backend failed, second strike"); probes != 1 || clients != 0 {
		t.Errorf("second strikes of %d probes, %d clients", probes, clients)
	}
}
