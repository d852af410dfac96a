/** The cases of test_file_download.py, test_keys.py, test_quoting_issues.py, test_static_repositories.py and test_updater_delegation_graphs.py. */
import { requireTargetFile } from '../../../../../agent/trust/tuf/tuf-trust.ts'
import { bundleOf, makeKey, Repository, tampered } from '../repository.ts'
import { TrustingDevice } from '../device.ts'
import type { Case } from './scene.ts'

const text = (content: string) => new TextEncoder().encode(content)

export const DOWNLOAD: Readonly<Record<string, Case>> = {
  test_client_downloads_expected_file: async (scene, t) => {
    scene.repository.list('targets', 'readme.txt', text('content'))
    scene.repository.publish('targets', 'snapshot', 'timestamp')
    const [target] = await scene.refresh(['readme.txt'])
    if (target) requireTargetFile(target, text('content'))
    t.equal(target?.length, 7)
  },
  test_client_downloads_expected_file_in_sub_dir: async (scene, t) => {
    const path = scene.repository.release('telemetry', '1.0.0')
    const [target] = await scene.refresh([path])
    if (target) requireTargetFile(target, bundleOf('telemetry', '1.0.0'))
    t.equal(target?.role, 'service-telemetry')
  },
  test_repository_substitutes_target_file: async (scene, t) => {
    const paths = [scene.repository.release('telemetry', '1.0.0'), scene.repository.release('routing', '1.0.0')]
    for (const target of await scene.refresh(paths)) t.throws(() => requireTargetFile(target, text('malicious')), { code: 'BUNDLE_CORRUPT' })
  },
  test_multiple_changes_to_target: async (scene, t) => {
    for (let turn = 0; turn < 3; turn++) {
      const bytes = text(`modified ${turn}`)
      const path = scene.repository.release('telemetry', '1.0.0', { bytes })
      const [target] = await scene.refresh([path])
      if (target) requireTargetFile(target, bytes)
      t.throws(() => target && requireTargetFile(target, text(`malicious ${turn}`)), { code: 'BUNDLE_CORRUPT' })
    }
  },
  // SHA-256 must be there; others beside it are no concern of ours.
  test_download_with_hash_algorithms: async (_, t) => {
    for (const [hashes, code] of [
      [{ sha512: 'f'.repeat(128) }, 'TRUST_MALFORMED'],
      [{ sha256: 'f'.repeat(64), sha512: 'f'.repeat(128) }, null],
    ] as const) {
      const repository = new Repository()
      repository.roles['targets'].targets['file'] = { length: 3, hashes }
      repository.publish('targets', 'snapshot', 'timestamp')
      const updated = (await new TrustingDevice(repository).start()).update(repository.push(), ['file'])
      if (code) await t.rejects(updated, { code })
      else t.equal((await updated)[0]?.hashes['sha256'], 'f'.repeat(64))
    }
  },
  test_download_with_unknown_hash_algorithm: async (scene) => {
    scene.repository.roles['targets'].targets['file'] = { length: 3, hashes: { 'unknown-hash': 'f'.repeat(64) } }
    scene.repository.publish('targets', 'snapshot', 'timestamp')
    await scene.refused('TRUST_MALFORMED')
  },
  // A device is handed files and fetches none: the same metadata vouches again, without being sent again.
  test_artifact_cache: async (scene, t) => {
    const path = scene.repository.release('telemetry', '1.0.0')
    await scene.refresh([path])
    const files = scene.repository.push().files.filter(({ name }) => name === 'timestamp.json')
    t.equal((await scene.refresh([path], { files }))[0]?.path, path)
  },
}

export const KEYS: Readonly<Record<string, Case>> = {
  test_snapshot_does_not_meet_threshold: async (scene) => {
    scene.repository.setKeys('snapshot', [makeKey(), makeKey(), makeKey()], 3)
    scene.repository.publish('root', 'targets', 'snapshot', 'timestamp')
    await scene.refresh()
    scene.repository.signers['snapshot']?.pop()
    scene.repository.publish('targets', 'snapshot', 'timestamp')
    await scene.refused('TRUST_THRESHOLD')
  },
  test_snapshot_has_too_few_keys: async (scene) => {
    scene.repository.roles['root'].roles.snapshot.threshold = 6
    scene.repository.publish('root', 'snapshot', 'timestamp')
    await scene.refused('TRUST_MALFORMED')
  },
  test_duplicate_keys: async (scene) => {
    const { keyids } = scene.repository.roles['root'].roles.snapshot
    scene.repository.roles['root'].roles.snapshot = { keyids: [keyids[0], keyids[0]], threshold: 2 }
    scene.repository.publish('root', 'snapshot', 'timestamp')
    await scene.refused('TRUST_MALFORMED')
  },
  test_duplicate_sig_keyids: async (scene) => {
    scene.repository.put(
      'snapshot',
      tampered(scene.repository.file('1.snapshot.json'), (file) => file.signatures.push(file.signatures[0])),
    )
    scene.repository.write('timestamp')
    await scene.refused('TRUST_MALFORMED')
  },
  // Ed25519 is the one kind of key here; the others are refused, however well they sign.
  test_keytype_and_scheme: async (_, t) => {
    for (const [keytype, scheme] of [
      ['rsa', 'rsassa-pss-sha256'],
      ['ecdsa', 'ecdsa-sha2-nistp256'],
    ] as const) {
      const repository = new Repository()
      repository.setKeys('snapshot', [{ ...makeKey(), key: { keytype, scheme, keyval: { public: '-----BEGIN PUBLIC KEY-----' } } }], 1)
      repository.publish('root', 'snapshot', 'timestamp')
      await t.rejects((await new TrustingDevice(repository).start()).update(repository.push(), []), { code: 'TRUST_MALFORMED' }, keytype)
    }
  },
  test_invalid_sig_in_valid_metadata: async (scene) => {
    scene.repository.setKeys('timestamp', [makeKey(), makeKey()], 1)
    for (const sig of ['0'.repeat(128), '']) {
      scene.repository.publish('root', 'timestamp')
      const bytes = tampered(scene.repository.file('timestamp.json'), (file) => (file.signatures[0].sig = sig))
      await scene.refresh([], scene.repository.push({ 'timestamp.json': bytes }))
    }
  },
}

export const NAMES: Readonly<Record<string, Case>> = {
  // A delegated role here is called service-NAME, and nothing else is.
  test_unusual_role_name: async (_, t) => {
    for (const role of ['?', '#', '/delegatedrole', '../delegatedrole', '__proto__', 'root']) {
      const repository = new Repository()
      repository.roles['targets'].delegations.roles.push({ name: role, paths: ['*'], terminating: true, keyids: [], threshold: 1 })
      repository.publish('targets', 'snapshot', 'timestamp')
      await t.rejects((await new TrustingDevice(repository).start()).update(repository.push(), []), { code: 'TRUST_MALFORMED' }, role)
    }
  },
  // Repositories of other makers are not ours: the command-line client reads them (docs/tuf-conformance.md), a device refuses them.
  test_static_repository: async (scene, t) => {
    const anchor = tampered(scene.repository.anchor, (file) => (file.signed.consistent_snapshot = false))
    await t.rejects(scene.device.start({ anchor }), { code: 'TRUST_MALFORMED' })
  },
}

/** delegator, role, paths, terminating */
type Edge = readonly [string, string, (readonly string[])?, boolean?]
const ANY = ['*'] as const
const GRAPHS: readonly (readonly [edges: readonly Edge[], visited: string])[] = [
  [[['targets', 'a']], 'a'],
  [
    [
      ['targets', 'a'],
      ['a', 'b'],
      ['b', 'c'],
    ],
    'a b c',
  ],
  [
    [
      ['targets', 'a'],
      ['targets', 'b'],
    ],
    'a b',
  ],
  [
    [
      ['targets', 'a'],
      ['targets', 'b'],
      ['a', 'c'],
    ],
    'a c b',
  ],
  [
    [
      ['targets', 'a', ANY, true],
      ['targets', 'b'],
    ],
    'a',
  ],
  [
    [
      ['targets', 'a'],
      ['targets', 'b'],
      ['a', 'c', ANY, true],
      ['c', 'd'],
    ],
    'a c d',
  ],
  [
    [
      ['targets', 'a', ['*.py']],
      ['targets', 'b'],
      ['a', 'c'],
    ],
    'b',
  ],
  [
    [
      ['targets', 'a'],
      ['targets', 'b'],
      ['b', 'c'],
      ['c', 'd'],
      ['d', 'b'],
    ],
    'a b c d',
  ],
  [
    [
      ['targets', 'a'],
      ['targets', 'b'],
      ['b', 'c'],
      ['a', 'c'],
    ],
    'a c b',
  ],
  [
    [
      ['targets', 'a'],
      ['targets', 'b'],
      ['b', 'c'],
      ['a', 'c', ['*.py']],
    ],
    'a b c',
  ],
]
const service = (name: string) => (name === 'targets' ? name : `service-${name}`)

function delegateAll(repository: Repository, edges: readonly Edge[]): void {
  const keys = new Map<string, ReturnType<typeof makeKey>>()
  for (const [delegator, role, paths = ANY, terminating = false] of edges) {
    const key = keys.get(role) ?? makeKey()
    keys.set(role, key)
    repository.roles[service(delegator)] ??= { ...repository.roles['targets'], version: 0, targets: {}, delegations: undefined }
    repository.delegate(service(role), paths, { delegator: service(delegator), terminating, keys: [key] })
  }
}

function publishAll(repository: Repository): void {
  for (const role of Object.keys(repository.roles)) if (repository.roles[role].delegations === undefined) delete repository.roles[role].delegations
  const delegated = Object.keys(repository.roles).filter((role) => role.startsWith('service-'))
  repository.publish(...delegated, 'targets', 'snapshot', 'timestamp')
}

export const DELEGATIONS: Readonly<Record<string, Case>> = {
  test_graph_traversal: async (scene, t) => {
    for (const [edges, visited] of GRAPHS) {
      const fresh = new (scene.constructor as typeof import('./scene.ts').Scene)(t)
      delegateAll(fresh.repository, edges)
      publishAll(fresh.repository)
      const { names, found } = await fresh.asked(['missing'])
      t.same(
        [
          names
            .slice(4)
            .map((name) => name.replace(/^service-| 1$/g, ''))
            .join(' '),
          found,
        ],
        [visited, [null]],
      )
    }
  },
  test_targetfile_search: async (scene, t) => {
    delegateAll(scene.repository, [
      ['targets', 'a', ['*.doc', '*.md']],
      ['targets', 'b', ['releases/*/*']],
      ['b', 'c', ['releases/x/*']],
      ['b', 'd', ['releases/y/*.zip']],
    ])
    const listed = {
      targetfile: 'targets',
      'README.md': 'service-a',
      'releases/README.md': 'service-a',
      'releases/x/x1': 'service-c',
      'releases/y/y1.zip': 'service-d',
      'releases/z/z1.zip': 'service-d',
    }
    for (const [path, role] of Object.entries(listed)) scene.repository.list(role, path, text(path))
    publishAll(scene.repository)
    const { found } = await scene.asked([...Object.keys(listed), 'README.MD'])
    t.same(
      found.map((target) => target?.role),
      ['targets', 'service-a', undefined, 'service-c', 'service-d', undefined, undefined],
    )
  },
  test_cached_role_is_verified_against_current_delegator: async (scene, t) => {
    delegateAll(scene.repository, [
      ['targets', 'a', ['team-a/*']],
      ['targets', 'b', ['team-b/*']],
      ['a', 'r', ['team-a/*']],
      ['b', 'r', ['team-b/*']],
    ])
    // The second delegator names another key, which has not signed.
    const signed = scene.repository.signers['service-r'] ?? []
    scene.repository.setKeys('service-r', [makeKey()], 1, 'service-b')
    scene.repository.signers['service-r'] = signed
    for (const path of ['team-a/file', 'team-b/file']) scene.repository.list('service-r', path, text(path))
    publishAll(scene.repository)
    t.equal((await scene.refresh(['team-a/file']))[0]?.role, 'service-r')
    await scene.refused('TRUST_THRESHOLD', ['team-a/file', 'team-b/file'])
  },
  test_delegation_not_in_snapshot: async (scene) => {
    const path = scene.repository.release('telemetry', '1.0.0')
    delete scene.repository.roles['snapshot'].meta['service-telemetry.json']
    scene.repository.publish('snapshot', 'timestamp')
    await scene.refresh()
    await scene.refused('TRUST_UNAVAILABLE', [path])
  },
}
