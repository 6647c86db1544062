package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/relaytest/lab"
)

// heldFor returns how long the n-th packet is held: every second one, for 8 to
// 60 ms.
func heldFor(n int) time.Duration {
	if n%2 == 0 {
		return 0
	}
	return 8*time.Millisecond + rand.N(52*time.Millisecond)
}

// The second answer of a backend, to a session that ended with the first one,
// reaches no other client while a packet filter of this machine holds it. A
// filter holds a packet after the kernel has found its socket, and delivers it
// there whatever port and peer the socket has by then.
func TestAnswersHeldByFilterReachNoOtherClient(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	lab.NewTUN(t, answerTwice(func(int) time.Duration { return 0 }), "10.7.0.1/24", "fd07::1/64")
	lab.HoldPackets(t, "53", heldFor)
	clientsOfTwoServices(t, 8)
}

// The same while the path to the backend holds answers. They arrive at whatever
// socket has the port by then. Few ports and long sessions make that likely.
func TestAnswersHeldOnPathReachNoOtherClient(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	relaytest.Check(t, os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 42047"), 0))
	lab.NewTUN(t, answerTwice(func(n int) time.Duration {
		if n%2 == 0 {
			return 20 * time.Millisecond
		}
		return 60*time.Millisecond + rand.N(60*time.Millisecond)
	}), "10.7.0.1/24", "fd07::1/64")
	clientsOfTwoServices(t, 32)
}

// maxHeld bounds how long a second answer is held, which must be less than ports
// rest. A busy machine can delay it further; such an answer is dropped.
const maxHeld = 150 * time.Millisecond

// answerTwice answers each datagram twice. delay returns how long the n-th
// answer of all is held.
func answerTwice(delay func(n int) time.Duration) func(*lab.TUN, lab.Datagram) {
	n := 0
	return func(tun *lab.TUN, d lab.Datagram) {
		for second := range 2 {
			answer := d.Answer(d.Payload)
			if wait := delay(n); wait > 0 {
				began := time.Now()
				time.AfterFunc(wait, func() {
					if second == 0 || time.Since(began) < maxHeld {
						tun.Send(answer)
					}
				})
			} else {
				tun.Send(answer)
			}
			n++
		}
	}
}

// wantedAnswers is how many answers clientsOfTwoServices waits for. A relay that
// gives a socket or port to another session at once passes some 30 of them or more
// to the wrong client.
const wantedAnswers = 3000

// clientsOfTwoServices runs a number of clients of each of two services. Each session has
// one query. No client receives any answer but that to its query. The clients pause, because packets are held longer than heldFor returns
// while all processors are busy.
func clientsOfTwoServices(t *testing.T, number int) {
	overEngines(t, func(t *testing.T, engine dgram.Engine) {
		oneResponse := func(o *handler.Options) { o.UDPResponses = 1 }
		var answers, foreign atomic.Int64
		var group sync.WaitGroup
		for _, backend := range []string{"10.7.0.2:53", "10.7.0.3:53"} {
			s := newService(t, engine, oneResponse, backend)
			for range number {
				group.Go(func() {
					for n := 0; answers.Load() < wantedAnswers; n++ {
						time.Sleep(4 * time.Millisecond)
						c := s.newClient()
						query := fmt.Sprint(backend, " ", c.key.Client, " ", n)
						c.send(query)
						got := relaytest.Receive(t, "the answer", c.got)
						answers.Add(1)
						if got != query {
							foreign.Add(1)
							if foreign.Load() < 5 {
								t.Errorf("the client of %q received %q", query, strings.TrimSpace(got))
							}
						}
					}
				})
			}
		}
		group.Wait()
		t.Logf("%d answers, %d of them to another client's query", answers.Load(), foreign.Load())
	})
}
