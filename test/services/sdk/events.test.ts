import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { AbortController, AbortSignal, Event, EventTarget } from '../../../services/sdk/events.ts'

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

/** What was held by nobody but this turn is gone after it. */
async function collected(): Promise<void> {
  for (let turn = 0; turn < 3; turn++) {
    await new Promise((resolve) => setImmediate(resolve))
    gc()
  }
}

t.test('a signal that lives long keeps none of those that were made of it and are held by nobody', async (t) => {
  const { signal } = new AbortController()
  const make = () =>
    Array.from({ length: 1000 }, () => {
      const any = AbortSignal.any([AbortSignal.any([signal]), new AbortController().signal])
      const hear = () => {}
      any.addEventListener('abort', hear)
      any.removeEventListener('abort', hear)
      return new WeakRef(any)
    })
  const made = make()
  await collected()
  t.equal(made.filter((one) => one.deref()).length, 0)
  t.notOk(signal.aborted)
})

t.test('one that is listened to, or held, ends with its source', async (t) => {
  const controller = new AbortController()
  const heard: unknown[] = []
  const listen = () => {
    for (let at = 0; at < 100; at++) AbortSignal.any([controller.signal]).addEventListener('abort', () => heard.push(at), { once: true })
    AbortSignal.any([controller.signal]).onabort = () => heard.push('on')
  }
  listen()
  const held = AbortSignal.any([controller.signal])
  await collected()
  controller.abort('enough')
  t.same(heard, [...Array(100).keys(), 'on'])
  t.equal(held.reason, 'enough')
})

t.test('all have aborted before anybody hears of it, each once and with the first reason', async (t) => {
  const [one, two] = [new AbortController(), new AbortController()]
  const any = AbortSignal.any([one.signal, two.signal, one.signal])
  const nested = AbortSignal.any([any, two.signal])
  const heard: unknown[] = []
  for (const signal of [nested, any, one.signal]) signal.addEventListener('abort', () => heard.push([any.aborted, nested.aborted]))
  one.abort('first')
  two.abort('second')
  one.abort('third')
  t.same(heard, Array(3).fill([true, true]))
  t.same([any.reason, nested.reason, AbortSignal.any([two.signal, one.signal]).reason, AbortSignal.any([nested]).reason], ['first', 'first', 'second', 'first'])
  t.notOk(AbortSignal.any([]).aborted)
})

t.test('a listener that is gone leaves nothing with the signal that would have removed it', async (t) => {
  const { signal } = new AbortController()
  const make = () => {
    const targets = [new EventTarget(), new EventTarget()]
    const hear = () => {}
    for (const target of targets) target.addEventListener('ping', hear, { signal, once: true })
    targets[0]?.removeEventListener('ping', hear)
    targets[1]?.dispatchEvent(new Event('ping'))
    return targets.map((target) => new WeakRef(target))
  }
  const made = make()
  await collected()
  t.same(
    made.map((one) => one.deref()),
    [undefined, undefined],
  )
})

t.test('listeners are called in order, once each, and not after they were removed', async (t) => {
  const target = new EventTarget()
  const controller = new AbortController()
  const heard: string[] = []
  const last = () => heard.push('last')
  const first = () => {
    heard.push('first')
    target.removeEventListener('ping', last)
    target.addEventListener('ping', () => heard.push('added'), { once: true })
  }
  target.addEventListener('ping', first)
  target.addEventListener('ping', first)
  target.addEventListener('ping', { handleEvent: ({ type }: Event) => void heard.push(type) }, { signal: controller.signal })
  target.addEventListener('ping', last)
  target.dispatchEvent(new Event('ping'))
  t.same(heard, ['first', 'ping'])
  controller.abort()
  target.dispatchEvent(new Event('ping'))
  t.same(heard, ['first', 'ping', 'first', 'added'])
})
