// Package upstream is the ordered queue of a service's backends, as a passive
// state machine: it says whom to try next, is told what came of it, and keeps
// strikes, demotions and cooldowns. It opens no socket, starts no goroutine,
// looks up no name and reads no clock: whoever attempts says when.
//
// One client's way through the queue is a [Walk]:
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
//		case upstream.Retry: // drop the name from the DNS cache, look up afresh
//			attempt, ok = walk.Again(attempt, now)
//		case upstream.RetryIfChanged: // the same, but only for other addresses
//			...
//		case upstream.Next:
//			attempt, ok = walk.Next(now)
//		}
//	}
//	// !ok: every backend was tried, refuse the client
//
// # The two-strike rule
//
// Strikes are shared by all walks; that a walk is through with a backend is
// its own. A backend passes through these states, for TCP and for UDP apart:
//
//	        failure                failure
//	up ---------------> struck -----------------> down, at the end of the
//	^   strike 1,          |    strike 2             queue, perhaps cooling
//	|   asked again        |                           |
//	+----------------------+---------------------------+
//	                     success
//
// A failure counts only if its attempt began after the backend's latest
// strike, success, demotion or reset (its generation), so a hundred clients that
// run into one dead backend together are one strike, and then one more. A failure
// of a backend that is down is neither a strike nor a move nor an event: one
// outage costs two strikes, one move and one report, however long it lasts.
package upstream
