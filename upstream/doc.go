// Package upstream is the ordered queue of a service's backends, as a passive
// state machine. It chooses the backend for each attempt, receives the results
// of attempts, and keeps strikes, demotions and cooldowns. It opens no sockets,
// starts no goroutines, looks up no names and reads no clock: callers pass the
// time. The package is part of caddy-relay and promises no API to other modules.
//
// A [Walk] is one client's way through the queue:
//
//	walk := pool.Walk(upstream.TCP)
//	attempt, ok := walk.Next(now)
//	for ok {
//		err := dial(attempt.Backend)
//		if err == nil {
//			walk.Succeeded(attempt, now)
//			break
//		}
//		switch verdict, _ := walk.Failed(attempt, now, err); verdict {
//		case upstream.Retry: // drop the name from the DNS cache and look it up again
//			attempt, ok = walk.Again(attempt, now)
//		case upstream.RetryIfChanged: // the same, but only if the addresses differ
//			...
//		case upstream.Next:
//			attempt, ok = walk.Next(now)
//		}
//	}
//	// !ok: every backend was tried, refuse the client
//
// # The two-strike rule
//
// All walks share the strikes of a backend. Each walk keeps its own list of
// exhausted backends. The first strike is retried at once. The second one moves
// the backend to the end of the queue, where it is down, and cooling if that is
// configured. A failure on a backend that is down causes no strike, no move and
// no event. One outage thus costs two strikes, one move and one event, however
// long it lasts.
//
// # Evidence
//
// A connect proves that a process listens, and so does a UDP answer ([Listens]).
// A check that exchanges data proves that the service works ([Works]). Only a
// passed check outdates a failed check, so the states of a backend that a check
// has failed are states of their own. A backend passes through these states,
// separately for TCP and UDP:
//
//	                 connect fails               connect fails
//	      +-----------------------> struck -----------------------> down
//	      |                           |                              |
//	      |                           +------------+                 | check fails
//	      |                            check fails |                 | (no strike)
//	      |                                        v                 v
//	up ---+-----------------------> struck  --------------------> down
//	             check fails        by check   connect or check   by check
//	                                           fails
//
//	struck            ends by a connect
//	struck by check   ends by a passed check
//	down              ends by a connect or a passed check
//	down by check     ends by a passed check
//
// A UDP backend that takes datagrams for some time, without an answer and without
// an error, has succeeded like one that answers.
//
// A passed check does not end a strike of a connect: a backend that refuses its
// clients is demoted, whatever checks say.
//
// A failure counts only if its attempt began after
//
//   - the latest strike that still stands,
//   - the latest strike and the latest success of its own kind of evidence,
//   - the latest demotion, the latest recovery by a check and the latest reset,
//   - the gap of the first strike, if the backend may have failed for a moment only
//     ([Walk.FailedWithin]).
//
// A hundred clients that fail on one dead backend together therefore cause one
// strike, and then one more.
package upstream
