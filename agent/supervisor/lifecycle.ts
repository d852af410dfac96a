export type State = 'loaded' | 'starting' | 'ready' | 'quiescing' | 'backoff' | 'stopped' | 'failed'
