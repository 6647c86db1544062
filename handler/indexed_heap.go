package handler

// indexedHeap is a binary heap of elements with a key, the smallest key first. Each
// element stores its index, so that it can be moved and removed.
type indexedHeap[T heapElement] []heapItem[T]

// heapItem holds the key next to the element, so that a comparison does not load
// the element.
type heapItem[T heapElement] struct {
	key     int64
	element T
}

// heapElement is an element of an [indexedHeap].
type heapElement interface {
	setIndex(int) // stores the element's index in the heap
}

func (h *indexedHeap[T]) push(key int64, element T) {
	*h = append(*h, heapItem[T]{key, element})
	h.set(len(*h)-1, (*h)[len(*h)-1])
	h.up(len(*h) - 1)
}

// remove removes the element with an index.
func (h *indexedHeap[T]) remove(index int) {
	last := len(*h) - 1
	moved := (*h)[last]
	(*h)[last] = heapItem[T]{}
	*h = (*h)[:last]
	if index == last {
		return
	}
	h.set(index, moved)
	h.down(h.up(index))
}

// update changes the key of the element with an index.
func (h *indexedHeap[T]) update(index int, key int64) {
	(*h)[index].key = key
	h.down(h.up(index))
}

// up moves an element towards the front until the order is right, and returns its
// index.
func (h *indexedHeap[T]) up(index int) int {
	item := (*h)[index]
	at := index
	for at > 0 {
		parent := (at - 1) / 2
		if (*h)[parent].key <= item.key {
			break
		}
		h.set(at, (*h)[parent])
		at = parent
	}
	if at != index {
		h.set(at, item)
	}
	return at
}

// down moves an element towards the end until the order is right.
func (h *indexedHeap[T]) down(index int) {
	item := (*h)[index]
	at := index
	for {
		child := 2*at + 1
		if child >= len(*h) {
			break
		}
		if right := child + 1; right < len(*h) && (*h)[right].key < (*h)[child].key {
			child = right
		}
		if (*h)[child].key >= item.key {
			break
		}
		h.set(at, (*h)[child])
		at = child
	}
	if at != index {
		h.set(at, item)
	}
}

func (h *indexedHeap[T]) set(index int, item heapItem[T]) {
	(*h)[index] = item
	item.element.setIndex(index)
}
