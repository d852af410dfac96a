import t from 'tap'
import type { Manifest } from '../../../core/manifest.ts'
import { type DeviceGrounds, refusedForState, refusedForTrust } from '../../../fleet/registry/device-verdict.ts'
import { inspectBundle } from '../../../fleet/registry/inspect.ts'
import { anchoredKeys } from '../../../fleet/registry/verify.ts'
import { makeBundle, makeKey, trust } from '../../fixtures/bundles.ts'

const device: DeviceGrounds = {
  deviceId: 'sw1',
  enforced: true,
  needsWitness: false,
  policyVersion: 3,
  heights: { timestamp: 9, 'service-hello': 4 },
  floors: {},
  services: [
    { service: 'hello', version: '1.1.0', manifestSha256: 'a'.repeat(64), methods: ['/h.Hello/Say'] },
    { service: 'other', version: '2.0.0', manifestSha256: 'b'.repeat(64), methods: ['/o.Other/Do'] },
  ],
}
const offered = { policyVersion: 3, versions: { timestamp: 9, 'service-hello': 4 } }

t.test('a repository older than what the device has seen is refused, role or policy, and so is an order before the witness', async (t) => {
  t.equal(refusedForTrust(device, offered), null)
  t.match(refusedForTrust(device, { ...offered, versions: { timestamp: 9, 'service-hello': 3 } }), {
    code: 'TRUST_ROLLBACK',
    reason: /version 4 of service-hello.* has 3/,
  })
  t.match(refusedForTrust(device, { ...offered, versions: { timestamp: 9 } }), { code: 'TRUST_ROLLBACK', reason: /has none/ })
  t.match(refusedForTrust(device, { ...offered, policyVersion: 2 }), { code: 'TRUST_ROLLBACK', reason: /policy version 3/ })
  t.match(refusedForTrust({ ...device, needsWitness: true }, offered), { code: 'TRUST_UNAVAILABLE' })
  t.equal(refusedForTrust({ ...device, needsWitness: true, enforced: false }, { policyVersion: 0, versions: {} }), null, 'a development device demands nothing')
})

t.test('what the device runs decides the rest: its floor, a downgrade, a method of another service, other bytes of the same version', async (t) => {
  const manifest = (over: Partial<Manifest>) =>
    ({ name: 'hello', version: '1.2.0', methods: [{ path: '/h.Hello/Say', kind: 'unary' }], ...over }) as unknown as Manifest
  const refused = (over: Partial<Manifest>, with_: Partial<DeviceGrounds> = {}) => refusedForState(manifest(over), 'c'.repeat(64), { ...device, ...with_ })
  t.equal(refused({}), null)
  t.match(refused({}, { floors: { hello: '1.3.0' } }), { code: 'BUNDLE_ROLLBACK', reason: /floor of hello on sw1 is 1\.3\.0/ })
  t.match(refused({ version: '1.0.9' }), { code: 'BUNDLE_DOWNGRADE', reason: /runs 1\.1\.0/ })
  t.match(refused({ methods: [{ path: '/o.Other/Do', kind: 'unary' }] }), { code: 'METHOD_CONFLICT', reason: /by other/ })
  t.match(refused({ version: '1.1.0' }), { code: 'BUNDLE_EXISTS' })
  t.equal(refusedForState(manifest({ version: '1.1.0' }), 'a'.repeat(64), device), null, 'the same bundle again is no news')
})

t.test('inspect names the device and the policy that its verdict is by', async (t) => {
  const key = makeKey()
  const trusted = trust(key)
  const file = makeBundle(key, { name: 'hello', version: '1.0.0' })
  const demanded = { keys: anchoredKeys(trusted), policy: { version: 3, services: {} } }
  t.match(inspectBundle(file, { trusted, device: { ...device, enforced: false } }), { device: 'sw1', verdict: { accepted: false, code: 'BUNDLE_DOWNGRADE' } })
  t.match(inspectBundle(file, { trusted, demanded, device, offered: { policyVersion: 3, versions: {} } }), {
    policyVersion: 3,
    verdict: { code: 'TRUST_ROLLBACK' },
  })
  const late = { ...demanded, expired: (service: string) => `service-${service} expired` }
  t.match(inspectBundle(file, { trusted, demanded: late, device, offered }), { verdict: { code: 'TRUST_EXPIRED', reason: 'service-hello expired' } })
})
