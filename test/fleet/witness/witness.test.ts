import { stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { keyIdOf } from '../../../core/signing.ts'
import { Witness } from '../../../fleet/witness/witness.ts'
import { makeKey, Repository } from '../../agent/trust/tuf/repository.ts'
import { FakeClock } from '../../fakes/clock.ts'

t.test('what a witness has seen is written when it is new, and not again', async (t) => {
  const repository = new Repository()
  repository.release('telemetry', '1.1.0')
  const first = repository.push()
  repository.release('telemetry', '1.2.0')
  const directory = t.testdir({})
  await writeFile(join(directory, 'root.json'), repository.anchor)
  const clock = new FakeClock()
  await clock.advance(repository.nowMs - clock.nowMs())
  const { publicKey, sign } = makeKey()
  const witness = await Witness.open({ directory, fleet: 'lab', key: { keyId: keyIdOf(publicKey), publicKey, sign }, clock })
  // Each write makes a new file beside the one before.
  const file = async () => (await stat(join(directory, 'seen.json'))).ino
  const nonce = new Uint8Array(32)
  await witness.attest(nonce, first)
  const written = await file()
  const { heights } = witness
  await witness.attest(nonce, first)
  await witness.attest(nonce)
  t.equal(await file(), written)
  t.same(witness.heights, heights)
  await witness.attest(nonce, repository.push())
  t.not(await file(), written)
  t.ok((witness.heights?.timestamp ?? 0) > (heights?.timestamp ?? 0))
})
