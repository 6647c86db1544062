package upstream

// Evidence is what the result of an attempt proves. The package comment has the
// rules.
type Evidence uint8

const (
	// Listens is the evidence of a connect and of a UDP answer: a process
	// listens, or does not.
	Listens Evidence = iota
	// Works is the evidence of a check that exchanges data: the service works,
	// or does not.
	Works
)

// word is the value of health.word: the state in its lowest bits, then one
// generation for each [Evidence]. The generation of the connects may overflow
// into that of the checks, which then outdates one failed check. That takes 2^40
// connects.
type word uint64

const (
	strikeBit word = 1 << 0 // one strike; the second strike sets downBit instead
	downBit   word = 1 << 1 // demoted and no success since
	checkBit  word = 1 << 2 // only a passed check ends the strike or down
	stateMask word = 1<<3 - 1

	listensUnit word = 1 << 3  // one generation of the connects, 40 bits
	worksUnit   word = 1 << 43 // one generation of the checks, 21 bits
	bothUnits        = listensUnit + worksUnit
)

func (w word) has(bits word) bool { return w&bits != 0 }

// unit returns one generation of this evidence.
func (e Evidence) unit() word {
	if e == Works {
		return worksUnit
	}
	return listensUnit
}

// generation returns the generation of one kind of evidence.
func (w word) generation(e Evidence) word {
	if e == Works {
		return w / worksUnit
	}
	return w % worksUnit / listensUnit
}

// outdates reports whether w, the current word, makes a failure stale whose
// attempt began at the word began. Each kind of evidence has its own generation,
// and a strike that still stands outdates both kinds.
func (w word) outdates(began word, e Evidence) bool {
	if w.generation(e) != began.generation(e) {
		return true
	}
	other := Listens
	if e == Listens {
		other = Works
	}
	struckByOther := w.has(strikeBit) && w.has(checkBit) == (other == Works)
	return struckByOther && w.generation(other) != began.generation(other)
}

// endsBy reports whether a success of this evidence ends the strike or down, if
// there is one.
func (w word) endsBy(e Evidence) bool {
	switch {
	case e == Listens:
		return w.has(strikeBit|downBit) && !w.has(checkBit)
	case w.has(strikeBit):
		return w.has(checkBit)
	default:
		return w.has(downBit)
	}
}

// afterSuccess returns the word after a success.
func (w word) afterSuccess(e Evidence) word {
	if !w.endsBy(e) {
		return w + e.unit()
	}
	if e == Works && w.has(downBit) {
		return (w + bothUnits) &^ stateMask
	}
	return (w + e.unit()) &^ stateMask
}

// afterFailure returns the word after a failure that is not stale. strike is the
// number of the strike, or 0 if the backend is down.
func (w word) afterFailure(e Evidence) (after word, strike int) {
	var check word
	if e == Works {
		check = checkBit
	}
	switch {
	case w.has(downBit):
		return w | check, 0
	case w.has(strikeBit):
		return (w+bothUnits)&^strikeBit | downBit | check, 2
	default:
		return (w + e.unit()) | strikeBit | check, 1
	}
}
