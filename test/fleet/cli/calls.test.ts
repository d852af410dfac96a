import t from 'tap'
import { callsText, circuitText } from '../../../fleet/cli/calls.ts'
import { Circuit, ServiceStatus, type CircuitInit } from '../../../proto/gen/lifecycle.ts'

const circuit = (over: CircuitInit) => Circuit.decode(Circuit.encode({ api: 'test.Back', service: 'back', state: 'closed', ...over }))
const status = (...circuits: CircuitInit[]) => ServiceStatus.decode(ServiceStatus.encode({ circuits }))

t.test('the list says which APIs a service calls, and what is wrong with that', async (t) => {
  t.equal(callsText(status()), '')
  t.equal(callsText(status(circuit({}), circuit({ api: 'test.Other' }))), 'test.Back, test.Other')
  t.equal(callsText(status(circuit({ state: 'open', failures: 5 }))), 'test.Back (open)')
  t.equal(callsText(status(circuit({ service: '' }))), 'test.Back (nothing serves it)')
})

t.test('a watcher is told of each step of a circuit', async (t) => {
  const retryAtMs = Date.UTC(2026, 0, 2, 3, 4, 5)
  t.equal(
    circuitText(circuit({ state: 'open', failures: 5, retryAtMs })),
    'calls of test.Back (back): circuit open after 5 failures in a row, next try 2026-01-02T03:04:05Z',
  )
  t.equal(circuitText(circuit({ state: 'half-open' })), 'calls of test.Back (back): circuit half-open, one call tries')
  t.equal(circuitText(circuit({ service: '' })), 'calls of test.Back: circuit closed, they go through again')
})
