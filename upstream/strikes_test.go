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
		// The next client no longer pays for a.
		{"bob next", "b", "", ""},
	})
}

// The strikes are the backend's, whoever meets them: the second need not be
// the first one's client.
func TestStrikesAreShared(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"ann fails a", "retry", "strike 1", "a:struck b"},
		{"bob next", "a", "", ""},
		{"bob fails a", "next", "strike 2, demoted, order b a", "b a:down"},
		{"bob next", "b", "", ""},
	})
}

// The last of the queue has nowhere to go: no order is announced.
func TestOrderIsGivenOnlyWhereItChanged(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"ann exhausts a", "", "", ""},
		{"ann next", "b", "", ""},
		{"ann fails b", "retry", "strike 1", "a b:struck"},
		{"ann again b", "b", "", ""},
		{"ann fails b", "next", "strike 2, demoted", "a b:down"},
		{"ann next", "refused", "", ""},
		// But the demotion counts: a goes behind b when its turn comes.
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

// A client has two attempts even where they cost the backend only one strike.
func TestSecondFailureExhaustsCountedOrNot(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"ann fails a", "retry", "strike 1", "a:struck b"},
		{"bob next", "a", "", ""},
		{"bob succeeds a", "", "", "a b"},
		{"ann again a", "a", "", ""},
		{"ann fails a", "next", "strike 1", "a:struck b"}, // her second, but the first since bob's success
		{"ann again a", "refused", "", ""},
		{"ann next", "b", "", ""},
		{"ann fails b", "retry", "strike 1", "a:struck b:struck"},
		{"ann again b", "b", "", ""},
		{"cid next", "a", "", ""},
		{"cid succeeds a", "", "", "a b:struck"},
		{"ann fails b", "next", "strike 2, demoted", "a b:down"},
		{"ann next", "refused", "", ""}, // a is well again, but she had her two
	})
}

// What began before the latest strike or success tells nothing new.
func TestOlderFailuresAreNoStrikes(t *testing.T) {
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

// Success in good times, which takes no lock, makes older failures void too.
func TestSuccessOutdatesFailuresUnderWay(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"bob next", "a", "", ""},
		{"bob succeeds a", "", "", ""},
		{"ann fails a", "retry", "", ""},
	})
}

// At a demotion those who still wait are told, and are through with the
// backend when their attempt fails after all, be it their first.
func TestDemotionReleasesThoseWhoWait(t *testing.T) {
	play(t, "a b c", 0, []step{
		{"ann next", "a", "", ""},
		{"bob next", "a", "", ""},
		{"ann fails a", "retry", "strike 1", "a:struck b c"},
		{"ann again a", "a", "", ""},
		{"cid next", "a", "", ""},
		{"bob waits a", "", "", ""}, // one strike is not for him to hear
		{"cid waits a", "", "", ""},
		{"ann fails a", "next", "strike 2, demoted, order b c a", "b c a:down"},
		{"bob waits a", "go on", "", ""},
		{"cid waits a", "go on", "", ""},
		{"bob fails a", "next", "", ""},
		{"bob next", "b", "", ""},
		{"cid fails a", "next", "", ""},
		{"cid next", "b", "", ""},
		// Those who come later wait for the next demotion, not for this one.
		{"dan probes a", "a", "", ""},
		{"dan waits a", "", "", ""},
	})
}

// The one who is told may exhaust the backend and go on before its dial is
// done, and is not sent back there, not even at the end of the queue.
func TestToldOnesGoOnAtOnce(t *testing.T) {
	play(t, "a b", 0, []step{
		{"bob next", "a", "", ""},
		{"ann next", "a", "", ""},
		{"ann fails a", "retry", "strike 1", "a:struck b"},
		{"ann again a", "a", "", ""},
		{"ann fails a", "next", "strike 2, demoted, order b a", "b a:down"},
		{"bob waits a", "go on", "", ""},
		{"bob exhausts a", "", "", ""},
		{"bob next", "b", "", ""},
		{"bob fails a", "next", "", ""}, // the old dial, meanwhile
		{"bob fails b", "retry", "strike 1", "b:struck a:down"},
		{"bob again b", "b", "", ""},
		{"bob fails b", "next", "strike 2, demoted, order a b, all unavailable", "a:down b:down"},
		{"bob next", "refused", "", ""},
	})
}

// Being told holds for good: a recovery does not take it back.
func TestReleasedAlsoAfterRecovery(t *testing.T) {
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
		// The order is one for both; strikes, down and cooldown are not.
		{"bob fails a", "next", "strike 2, demoted, order b a, cooling until 1m0s", "b a:cooling:udp-struck"},
		{"ann@udp waits a", "", "", ""},
		{"cid@udp next", "b", "", ""},
		{"cid@udp exhausts b", "", "", ""},
		{"cid@udp next", "a", "", ""},
		// A success on one says nothing of the other.
		{"cid@udp succeeds a", "", "", "b a:cooling"},
		{"ann@udp fails a", "next", "", ""}, // older than cid's success
		{"dan@udp resumes a", "a", "", ""},
		{"dan@udp fails a", "retry", "strike 1", "b a:cooling:udp-struck"},
		{"dan@udp again a", "a", "", ""},
		{"dan@udp fails a", "next", "strike 2, demoted, cooling until 1m0s", "b a:cooling:udp-cooling"},
		{"p probes a", "a", "", ""},
		{"p succeeds a", "", "recovered after 0s", "b a:udp-cooling"},
	})
}

// A crowd that runs into one dead backend together is one strike, and then one
// more: one move, one backend_failed; the others find it exhausted.
func TestHundredClientsAreTwoStrikes(t *testing.T) {
	const crowd = 100
	steps := []step{}
	for i := range crowd {
		steps = append(steps, step{do: fmt.Sprintf("c%d next", i), told: "a"})
	}
	for i := range crowd {
		row := step{do: fmt.Sprintf("c%d fails a", i), told: "retry"}
		if i == 0 {
			row.change, row.queue = "strike 1", "a:struck b"
		}
		steps = append(steps, row)
	}
	for i := range crowd {
		steps = append(steps, step{do: fmt.Sprintf("c%d again a", i), told: "a"})
	}
	for i := range crowd {
		row := step{do: fmt.Sprintf("c%d fails a", i), told: "next"}
		if i == 0 {
			row.change, row.queue = "strike 2, demoted, order b a", "b a:down"
		}
		steps = append(steps, row, step{do: fmt.Sprintf("c%d next", i), told: "b"})
	}
	play(t, "a b", 0, steps)
}
