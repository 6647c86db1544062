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
// exhausted backends. A backend passes through these states, separately for TCP
// and UDP:
//
//	        failure                failure
//	up ---------------> struck -----------------> down, at the end of the
//	^   strike 1,          |    strike 2             queue, cooling if configured
//	|   retried at once    |                           |
//	+----------------------+---------------------------+
//	                     success
//
// A failure counts only if its attempt began after the backend's latest strike,
// success, demotion or reset (its generation). A hundred clients that fail on one
// dead backend together therefore cause one strike, and then one more. A failure
// on a backend that is down causes no strike, no move and no event. One outage
// thus costs two strikes, one move and one event, however long it lasts.
package upstream
