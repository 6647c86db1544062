package upstream

import (
	"fmt"
	"testing"
	"time"
)

func TestTwoStrikes(t *testing.T) {
	play(t, "a b c", 0, []step{
		{"ann next", "a", "", ""},
		{"ann fails a", "retry", "strike 1", "a:struck b c"},
		{"ann again a", "a", "", ""},
		{"ann fails a", "next", "strike 2, demoted, order b c a", "b c a:down"},
		{"ann next", "b", "", ""},
		{"ann succeeds b", "", "", ""},
		// The next client starts with b.
		{"bob next", "b", "", ""},
	})
}

// Strikes are shared by all clients: the second strike may come from another client.
func TestStrikesAreShared(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"ann fails a", "retry", "strike 1", "a:struck b"},
		{"bob next", "a", "", ""},
		{"bob fails a", "next", "strike 2, demoted, order b a", "b a:down"},
		{"bob next", "b", "", ""},
	})
}

// The demotion of the last backend does not change the order.
func TestOrderIsSetOnlyIfItChanged(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"ann exhausts a", "", "", ""},
		{"ann next", "b", "", ""},
		{"ann fails b", "retry", "strike 1", "a b:struck"},
		{"ann again b", "b", "", ""},
		{"ann fails b", "next", "strike 2, demoted", "a b:down"},
		{"ann next", "refused", "", ""},
		// b counts as demoted nevertheless: a moves behind it later.
		{"bob next", "a", "", ""},
		{"bob fails a", "retry", "strike 1", "a:struck b:down"},
		{"bob again a", "a", "", ""},
		{"bob fails a", "next", "strike 2, demoted, order b a, all unavailable", "b:down a:down"},
	})
}

func TestSuccessClearsStrikes(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"ann fails a", "retry", "strike 1", "a:struck b"},
		{"ann again a", "a", "", ""},
		{"ann succeeds a", "", "", "a b"},
		{"bob next", "a", "", ""},
		{"bob fails a", "retry", "strike 1", "a:struck b"},
		{"bob again a", "a", "", ""},
		{"bob succeeds a", "", "", "a b"},
	})
}

// The second failure of a client exhausts the backend, even if only one of them was
// a strike.
func TestSecondFailureExhausts(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"ann fails a", "retry", "strike 1", "a:struck b"},
		{"bob next", "a", "", ""},
		{"bob succeeds a", "", "", "a b"},
		{"ann again a", "a", "", ""},
		{"ann fails a", "next", "strike 1", "a:struck b"}, // her second failure, but the first strike since bob's success
		{"ann again a", "refused", "", ""},
		{"ann next", "b", "", ""},
		{"ann fails b", "retry", "strike 1", "a:struck b:struck"},
		{"ann again b", "b", "", ""},
		{"cid next", "a", "", ""},
		{"cid succeeds a", "", "", "a b:struck"},
		{"ann fails b", "next", "strike 2, demoted", "a b:down"},
		{"ann next", "refused", "", ""}, // a is up, but she has exhausted it
	})
}

// A failure whose attempt began before the latest strike or success causes no strike.
func TestStaleFailuresCauseNoStrikes(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"bob next", "a", "", ""},
		{"ann fails a", "retry", "strike 1", "a:struck b"},
		{"bob fails a", "retry", "", ""}, // began before that strike
		{"bob again a", "a", "", ""},     // begins after it
		{"cid next", "a", "", ""},
		{"cid succeeds a", "", "", "a b"},
		{"bob fails a", "next", "", ""}, // began before that success
		{"bob next", "b", "", ""},
	})
}

// A success of a backend without strikes makes attempts in progress stale too.
func TestSuccessMakesFailuresStale(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"bob next", "a", "", ""},
		{"bob succeeds a", "", "", ""},
		{"ann fails a", "retry", "", ""},
	})
}

// A demotion closes the channels of attempts that still wait. If such an attempt
// fails, the client has exhausted the backend, even with its first attempt.
func TestDemotionWakesWaitingClients(t *testing.T) {
	play(t, "a b c", 0, []step{
		{"ann next", "a", "", ""},
		{"bob next", "a", "", ""},
		{"ann fails a", "retry", "strike 1", "a:struck b c"},
		{"ann again a", "a", "", ""},
		{"cid next", "a", "", ""},
		{"bob waits a", "", "", ""}, // one strike does not close the channel
		{"cid waits a", "", "", ""},
		{"ann fails a", "next", "strike 2, demoted, order b c a", "b c a:down"},
		{"bob waits a", "demoted", "", ""},
		{"cid waits a", "demoted", "", ""},
		{"bob fails a", "next", "", ""},
		{"bob next", "b", "", ""},
		{"cid fails a", "next", "", ""},
		{"cid next", "b", "", ""},
		// The channel of a later attempt is closed by the next demotion only.
		{"dan probes a", "a", "", ""},
		{"dan waits a", "", "", ""},
	})
}

// A client may exhaust a demoted backend while its dial is still in progress. The
// backend is not offered to it again, not even at the end of the queue.
func TestClientContinuesAtOnceAfterDemotion(t *testing.T) {
	play(t, "a b", 0, []step{
		{"bob next", "a", "", ""},
		{"ann next", "a", "", ""},
		{"ann fails a", "retry", "strike 1", "a:struck b"},
		{"ann again a", "a", "", ""},
		{"ann fails a", "next", "strike 2, demoted, order b a", "b a:down"},
		{"bob waits a", "demoted", "", ""},
		{"bob exhausts a", "", "", ""},
		{"bob next", "b", "", ""},
		{"bob fails a", "next", "", ""}, // the old dial
		{"bob fails b", "retry", "strike 1", "b:struck a:down"},
		{"bob again b", "b", "", ""},
		{"bob fails b", "next", "strike 2, demoted, order a b, all unavailable", "a:down b:down"},
		{"bob next", "refused", "", ""},
	})
}

// The channel stays closed after a recovery.
func TestDemotedStaysClosedAfterRecovery(t *testing.T) {
	play(t, "a b", 0, []step{
		{"bob next", "a", "", ""},
		{"ann next", "a", "", ""},
		{"ann fails a", "retry", "strike 1", "a:struck b"},
		{"ann again a", "a", "", ""},
		{"ann fails a", "next", "strike 2, demoted, order b a", "b a:down"},
		{"p probes a", "a", "", ""},
		{"p succeeds a", "", "recovered after 0s", "b a"},
		{"bob fails a", "next", "", ""},
		{"bob next", "b", "", ""},
	})
}

func TestStrikesAreKeptPerNetwork(t *testing.T) {
	play(t, "a b", time.Minute, []step{
		{"ann@udp next", "a", "", ""},
		{"ann@udp fails a", "retry", "strike 1", "a:udp-struck b"},
		{"ann@udp again a", "a", "", ""},
		{"bob next", "a", "", ""},
		{"bob fails a", "retry", "strike 1", "a:struck:udp-struck b"},
		{"bob again a", "a", "", ""},
		// Both networks share the order, but not strikes, down and cooldowns.
		{"bob fails a", "next", "strike 2, demoted, order b a, cooling until 1m0s", "b a:cooling:udp-struck"},
		{"ann@udp waits a", "", "", ""},
		{"cid@udp next", "b", "", ""},
		{"cid@udp exhausts b", "", "", ""},
		{"cid@udp next", "a", "", ""},
		// A success on one network does not change the other.
		{"cid@udp succeeds a", "", "", "b a:cooling"},
		{"ann@udp fails a", "next", "", ""}, // began before cid's success
		{"dan@udp resumes a", "a", "", ""},
		{"dan@udp fails a", "retry", "strike 1", "b a:cooling:udp-struck"},
		{"dan@udp again a", "a", "", ""},
		{"dan@udp fails a", "next", "strike 2, demoted, cooling until 1m0s", "b a:cooling:udp-cooling"},
		{"p probes a", "a", "", ""},
		{"p succeeds a", "", "recovered after 0s", "b a:udp-cooling"},
	})
}

// A hundred clients that fail on one dead backend together cause one strike, and then
// one more with one move and one backend_failed. All of them exhaust the backend.
func TestHundredClientsCauseTwoStrikes(t *testing.T) {
	const clients = 100
	steps := []step{}
	// each appends the rows for each client. Only the first client changes the queue.
	each := func(rows ...step) {
		for i := range clients {
			for _, row := range rows {
				row.do = fmt.Sprintf("c%d %s", i, row.do)
				if i > 0 {
					row.change, row.queue = "", ""
				}
				steps = append(steps, row)
			}
		}
	}
	each(step{"next", "a", "", ""})
	each(step{"fails a", "retry", "strike 1", "a:struck b"})
	each(step{"again a", "a", "", ""})
	each(step{"fails a", "next", "strike 2, demoted, order b a", "b a:down"}, step{"next", "b", "", ""})
	play(t, "a b", 0, steps)
}
