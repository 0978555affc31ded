package main

import (
	"strconv"
	"sync"
	"sync/atomic"
)

// What the loops compute, so that the compiler keeps them.
var sink [64]struct {
	value int64
	_     [56]byte
}

type locked struct {
	mu   sync.Mutex
	x    int
	done sync.Once
}

func onMutex(_ int) func(id, loops int) {
	m := &locked{}
	return func(_, loops int) {
		for i := 0; i < loops; i++ {
			m.mu.Lock()
			m.mu.Unlock()
		}
	}
}

func onMutexWithWork(_ int) func(id, loops int) {
	m := &locked{}
	return func(_, loops int) {
		for i := 0; i < loops; i++ {
			m.mu.Lock()
			m.x++
			m.mu.Unlock()
		}
	}
}

func onReaders(_ int) func(id, loops int) {
	m := &sync.RWMutex{}
	return func(_, loops int) {
		for i := 0; i < loops; i++ {
			m.RLock()
			m.RUnlock()
		}
	}
}

func onWriters(_ int) func(id, loops int) {
	m := &sync.RWMutex{}
	return func(_, loops int) {
		for i := 0; i < loops; i++ {
			m.Lock()
			m.Unlock()
		}
	}
}

func onAtomicAdd(_ int) func(id, loops int) {
	n := &atomic.Int64{}
	return func(_, loops int) {
		for i := 0; i < loops; i++ {
			n.Add(1)
		}
	}
}

func onAtomicLoad(_ int) func(id, loops int) {
	n := &atomic.Int64{}
	return func(id, loops int) {
		var sum int64
		for i := 0; i < loops; i++ {
			sum += n.Load()
		}
		sink[id%len(sink)].value = sum
	}
}

func onAtomicSwaps(_ int) func(id, loops int) {
	n := &atomic.Int64{}
	return func(_, loops int) {
		for i := 0; i < loops; i++ {
			for {
				old := n.Load()
				if n.CompareAndSwap(old, old+1) {
					break
				}
			}
		}
	}
}

// keys are equal to the stored ones, but other strings.
func keys(count int) []string {
	made := make([]string, count)
	for i := range made {
		made[i] = "key" + strconv.Itoa(i)
	}
	return made
}

// onMap loads keys; every `every`-th operation of a thread stores one instead.
func onMap(count, every int) func(threads int) func(id, loops int) {
	return func(threads int) func(id, loops int) {
		m := &sync.Map{}
		var value interface{} = &struct{ x int }{}
		for _, key := range keys(count) {
			m.Store(key, value)
		}
		for _, key := range keys(count) { // the map moves its entries to where loads take no lock
			m.Load(key)
		}
		equal := make([][]string, threads)
		for id := range equal {
			equal[id] = keys(count)
		}
		return func(id, loops int) {
			own := equal[id]
			at := id * 7919 % count
			found := 0
			for i := 1; i <= loops; i++ {
				if every > 0 && i%every == 0 {
					m.Store(own[at], value)
				} else if _, ok := m.Load(own[at]); ok {
					found++
				}
				if at++; at == count {
					at = 0
				}
			}
			sink[id%len(sink)].value = int64(found)
		}
	}
}

func onInsertAndDelete(_ int) func(id, loops int) {
	m := &sync.Map{}
	var value interface{} = &struct{ x int }{}
	return func(id, loops int) {
		for i := 0; i < loops; i++ {
			key := int64(id)<<40 + int64(i)
			m.Store(key, value)
			m.Delete(key)
		}
	}
}

// onChannel: each thread sends and then receives, so none waits.
func onChannel(_ int) func(id, loops int) {
	c := make(chan *int, 1024)
	return func(_, loops int) {
		item := new(int)
		for i := 0; i < loops; i++ {
			c <- item
			<-c
		}
	}
}

// oneWay: half of the threads send, half receive; of an odd number the last does nothing.
func oneWay(capacity int) func(threads int) func(id, loops int) {
	return func(threads int) func(id, loops int) {
		c := make(chan *int, capacity)
		return func(id, loops int) {
			switch {
			case id == threads-1 && threads%2 == 1:
			case id%2 == 0:
				item := new(int)
				for i := 0; i < loops; i++ {
					c <- item
				}
			default:
				for i := 0; i < loops; i++ {
					<-c
				}
			}
		}
	}
}

// onSelect: a case is ready, with three idle ones beside it or alone.
func onSelect(idle bool) func(threads int) func(id, loops int) {
	return func(_ int) func(id, loops int) {
		c := make(chan *int, 1024)
		a, b, d := make(chan struct{}), make(chan struct{}), make(chan struct{})
		return func(_, loops int) {
			item := new(int)
			if !idle {
				none := make(chan struct{})
				for i := 0; i < loops; i++ {
					c <- item
					select { // with one case alone the compiler would make it a receive
					case <-c:
					case <-none:
					}
				}
				return
			}
			for i := 0; i < loops; i++ {
				c <- item
				select {
				case <-c:
				case <-a:
				case <-b:
				case <-d:
				}
			}
		}
	}
}

// onWakes: two threads answer each other, so each waits for each item; with four idle cases or none.
func onWakes(idle bool) func(threads int) func(id, loops int) {
	return func(threads int) func(id, loops int) {
		there := make([]chan *int, threads/2)
		back := make([]chan *int, threads/2)
		for i := range there {
			there[i], back[i] = make(chan *int, 1), make(chan *int, 1)
		}
		var e [4]chan struct{}
		for i := range e {
			e[i] = make(chan struct{})
		}
		receive := func(c chan *int) {
			if !idle {
				<-c
				return
			}
			select {
			case <-c:
			case <-e[0]:
			case <-e[1]:
			case <-e[2]:
			case <-e[3]:
			}
		}
		return func(id, loops int) {
			pair := id / 2
			if pair == len(there) {
				return
			}
			item := new(int)
			for i := 0; i < loops; i++ {
				if id%2 == 0 {
					there[pair] <- item
					receive(back[pair])
				} else {
					receive(there[pair])
					back[pair] <- item
				}
			}
		}
	}
}

func onWaitGroup(_ int) func(id, loops int) {
	g := &sync.WaitGroup{}
	return func(_, loops int) {
		for i := 0; i < loops; i++ {
			g.Add(1)
			g.Done()
		}
	}
}

func onOnce(_ int) func(id, loops int) {
	m := &locked{}
	return func(_, loops int) {
		for i := 0; i < loops; i++ {
			m.done.Do(func() { m.x++ })
		}
	}
}

func onPool(_ int) func(id, loops int) {
	p := &sync.Pool{New: func() interface{} { return new([4096]byte) }}
	return func(_, loops int) {
		for i := 0; i < loops; i++ {
			buffer := p.Get().(*[4096]byte)
			p.Put(buffer)
		}
	}
}

// onSemaphore: a channel of so many places; 0 is one for each thread.
func onSemaphore(units int) func(threads int) func(id, loops int) {
	return func(threads int) func(id, loops int) {
		places := units
		if places == 0 {
			places = threads
		}
		s := make(chan struct{}, places)
		return func(_, loops int) {
			for i := 0; i < loops; i++ {
				s <- struct{}{}
				<-s
			}
		}
	}
}

// onClosed: what one writes in Go for a set event.
func onClosed(_ int) func(id, loops int) {
	c := make(chan struct{})
	close(c)
	return func(_, loops int) {
		for i := 0; i < loops; i++ {
			<-c
		}
	}
}

// Each row is measured beside the operation of this name.
var rows = []row{
	{"Mutex, with m: pass", "Go: sync.Mutex", onMutex},
	{"Mutex, with m: x += 1", "Go: sync.Mutex", onMutexWithWork},
	{"Mutex, acquire and release", "Go: sync.Mutex", onMutex},
	{"RWMutex, rw.read.acquire and release", "Go: sync.RWMutex", onReaders},
	{"RWMutex, with rw.write: pass", "Go: sync.RWMutex", onWriters},
	{"AtomicInt64.add, returning the new value", "Go: atomic.Int64", onAtomicAdd},
	{"AtomicInt64.load", "Go: atomic.Int64", onAtomicLoad},
	{"AtomicInt64.compare_and_swap loop", "Go: atomic.Int64", onAtomicSwaps},
	{"ShardedCounter.add", "Go: atomic.Int64", onAtomicAdd},
	{"SyncMap, loads of one hot key", "Go: sync.Map", onMap(1, 0)},
	{"SyncMap, loads of 16 k keys", "Go: sync.Map", onMap(16384, 0)},
	{"SyncMap, 16 k keys, 1 % stores", "Go: sync.Map", onMap(16384, 100)},
	{"SyncMap, stores over 16 k keys", "Go: sync.Map", onMap(16384, 1)},
	{"SyncMap, insert then delete", "Go: sync.Map", onInsertAndDelete},
	{"Channel, send and recv by each thread", "Go: chan of 1024", onChannel},
	{"Channel, half send, half receive", "Go: chan of 1024", oneWay(1024)},
	{"Channel, rendezvous and one place", "Go: chan of 1", oneWay(1)},
	{"Channel, rendezvous and one place", "Go: chan without buffer", oneWay(0)},
	{"select, one case is ready", "Go: select of 2", onSelect(false)},
	{"select, one case is ready", "Go: select of 4", onSelect(true)},
	{"select, woken by one of its cases", "Go: receive", onWakes(false)},
	{"select, woken by one of its cases", "Go: select of 5", onWakes(true)},
	{"WaitGroup.add and done", "Go: sync.WaitGroup", onWaitGroup},
	{"Once.do, after the first call", "Go: sync.Once", onOnce},
	{"Pool, get and put a buffer of 4 KiB", "Go: sync.Pool", onPool},
	{"Semaphore(1), with m: pass", "Go: chan of 1", onSemaphore(1)},
	{"Semaphore, a unit for each thread", "Go: chan of a place a thread", onSemaphore(0)},
	{"Event.wait on a set event", "Go: closed chan", onClosed},
}
