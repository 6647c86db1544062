package resolver

import (
	"math/rand/v2"
	"time"
)

const (
	defaultLifetime = time.Hour

	// partialLifetime is the longest lifetime of an answer in which an address
	// family is missing.
	partialLifetime = 30 * time.Second

	// minLead is how long before its end a short lifetime is renewed at the latest.
	minLead = 2 * time.Second

	// The pause after a failed refresh is a tenth of the lifetime, within these bounds.
	minPause = 5 * time.Second
	maxPause = time.Minute
)

// Lifetime is the rule for the lifetime of answers: fixed, or the TTL of the records
// within bounds.
type Lifetime struct {
	// Fixed is the lifetime of all answers. 0: it is that of the records.
	Fixed time.Duration

	// Min and Max bound the TTL of the records. An unknown TTL counts as Min.
	Min, Max time.Duration
}

// orDefault returns l, or one hour if nothing is set.
func (l Lifetime) orDefault() Lifetime {
	if l.Fixed <= 0 && l.Max <= 0 {
		return Lifetime{Fixed: defaultLifetime}
	}
	return l
}

// Of returns the lifetime of an answer with the given TTL, 0 if unknown.
func (l Lifetime) Of(ttl time.Duration) time.Duration {
	if l.Fixed > 0 {
		return l.Fixed
	}
	return max(min(ttl, l.Max), l.Min)
}

// Longest returns the longest lifetime of an answer.
func (l Lifetime) Longest() time.Duration { return max(l.Fixed, l.Max) }

// untilRefresh returns how long after an answer it is to be renewed: at a random time
// near the end of its lifetime, so that names resolved together are not renewed
// together. That part is the last tenth, but at least minLead, and at most half of
// the lifetime. Its last sixth is left out, so that the new answer arrives before
// the old one expires.
func untilRefresh(life time.Duration) time.Duration {
	lead := max(life/10, min(minLead, life/2))
	return life - lead + rand.N(lead/6*5+1)
}

// pauseAfterFailure returns the time until the next try to renew an answer.
func pauseAfterFailure(life time.Duration) time.Duration {
	return min(max(life/10, minPause), maxPause)
}
