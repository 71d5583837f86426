-- The state of a service that was killed while it wrote the answer to 'third' and 'fourth' and 'fifth' waited, as the
-- version before the move into folders (schema 0004) left it.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0004');
CREATE TABLE cursors (
	platform TEXT NOT NULL, 
	workspace TEXT NOT NULL, 
	channel TEXT NOT NULL, 
	thread TEXT NOT NULL, 
	message_id TEXT NOT NULL, 
	sent_at FLOAT NOT NULL, 
	CONSTRAINT pk_cursors PRIMARY KEY (platform, workspace, channel, thread)
)
 WITHOUT ROWID

;
INSERT INTO "cursors" VALUES('scripted','team','general','','message-9',9.0);
INSERT INTO "cursors" VALUES('scripted','team','random','','message-5',5.0);
CREATE TABLE inbox (
	platform TEXT NOT NULL, 
	workspace TEXT NOT NULL, 
	channel TEXT NOT NULL, 
	identity TEXT NOT NULL, 
	thread TEXT NOT NULL, 
	received_at FLOAT NOT NULL, 
	CONSTRAINT pk_inbox PRIMARY KEY (platform, workspace, channel, identity)
)
 WITHOUT ROWID

;
INSERT INTO "inbox" VALUES('scripted','team','general','action event-3','',1.79592385795572924618e+09);
INSERT INTO "inbox" VALUES('scripted','team','general','command event-1','',1.79592385786365175241e+09);
INSERT INTO "inbox" VALUES('scripted','team','general','message-2','',1.7959238578722794056e+09);
INSERT INTO "inbox" VALUES('scripted','team','general','message-4','',1.79592385796001434332e+09);
INSERT INTO "inbox" VALUES('scripted','team','general','message-7','',1.79592385806760954864e+09);
INSERT INTO "inbox" VALUES('scripted','team','general','message-8','',1.79592385812011337284e+09);
INSERT INTO "inbox" VALUES('scripted','team','general','message-9','',1795923858.85698);
INSERT INTO "inbox" VALUES('scripted','team','random','command event-6','',1.79592385805245423314e+09);
INSERT INTO "inbox" VALUES('scripted','team','random','message-5','',1.79592385798035359388e+09);
CREATE TABLE outbox (
	reply_id TEXT NOT NULL, 
	request_id TEXT NOT NULL, 
	platform TEXT NOT NULL, 
	workspace TEXT NOT NULL, 
	channel TEXT NOT NULL, 
	thread TEXT NOT NULL, 
	part INTEGER NOT NULL, 
	question_id TEXT NOT NULL, 
	asker_id TEXT NOT NULL, 
	asker_name TEXT NOT NULL, 
	committed TEXT NOT NULL, 
	final BOOLEAN NOT NULL, 
	buttons TEXT NOT NULL, 
	attachment_name TEXT, 
	attachment_text TEXT, 
	platform_id TEXT, 
	finish_reason TEXT, 
	usage TEXT, 
	state TEXT NOT NULL, 
	dropped TEXT NOT NULL, 
	CONSTRAINT pk_outbox PRIMARY KEY (reply_id), 
	CONSTRAINT ck_outbox_state CHECK (state IN ('posting', 'posted', 'ready', 'final', 'dropped')), 
	CONSTRAINT fk_outbox_request_id FOREIGN KEY(request_id) REFERENCES requests (request_id), 
	CONSTRAINT uq_outbox_request_id_part UNIQUE (request_id, part)
);
INSERT INTO "outbox" VALUES('0dd31740dc8f96e9876f','e21a17c5d25942b5ac52ca3aa49e7e70','scripted','team','general','',0,'message-2','id-ana','Ana','You said: hello',1,'["regenerate","good","bad"]',NULL,NULL,'post-0','stop','{"prompt_tokens":1,"cached_tokens":0,"generated_tokens":3,"queue_s":0.1,"prefill_s":0.2,"decode_s":0.3,"context_window":2048,"dropped_turns":0}','final','');
INSERT INTO "outbox" VALUES('60cf037dab4e3c64e4a1','25b5b3d1ef024c41b3076cf0ac987a17','scripted','team','general','',0,'message-4','id-ben','Ben','You said: and me?',1,'["regenerate","good","bad"]',NULL,NULL,'post-1','stop','{"prompt_tokens":6,"cached_tokens":3,"generated_tokens":4,"queue_s":0.1,"prefill_s":0.2,"decode_s":0.3,"context_window":2048,"dropped_turns":0}','final','');
INSERT INTO "outbox" VALUES('7216a1dc8743659cbc23','16af95831c6543858a7d754101b95615','scripted','team','random','',0,'message-5','id-ana','Ana','You said: forget me not',1,'["regenerate","good","bad"]',NULL,NULL,'post-2','stop','{"prompt_tokens":3,"cached_tokens":1,"generated_tokens":5,"queue_s":0.1,"prefill_s":0.2,"decode_s":0.3,"context_window":2048,"dropped_turns":0}','final','');
INSERT INTO "outbox" VALUES('90ec59bd229847ba9486','05385101fcc24fa792059934b2ab5870','scripted','team','general','',0,'message-7','id-ana','Ana','',0,'["stop"]',NULL,NULL,'post-3',NULL,NULL,'posted','');
INSERT INTO "outbox" VALUES('108cee9b49ab85b8e4ef','0c55b653b13646bdaed776525a02238b','scripted','team','general','',0,'message-8','id-ben','Ben','',0,'["stop"]',NULL,NULL,'post-4',NULL,NULL,'posted','');
INSERT INTO "outbox" VALUES('6981d011f482c3bb6ca0','753635a88f8f4b6fbe37d6f195882e7c','scripted','team','general','',0,'message-9','id-cleo','Cleo','',0,'["stop"]',NULL,NULL,'post-5',NULL,NULL,'posted','');
CREATE TABLE ratings (
	reply_id TEXT NOT NULL, 
	actor_id TEXT NOT NULL, 
	good BOOLEAN NOT NULL, 
	rated_at FLOAT NOT NULL, 
	CONSTRAINT pk_ratings PRIMARY KEY (reply_id, actor_id), 
	CONSTRAINT fk_ratings_reply_id FOREIGN KEY(reply_id) REFERENCES outbox (reply_id)
)
 WITHOUT ROWID

;
INSERT INTO "ratings" VALUES('0dd31740dc8f96e9876f','id-ana',1,1.79592385795004463194e+09);
CREATE TABLE requests (
	id INTEGER NOT NULL, 
	request_id TEXT NOT NULL, 
	platform TEXT NOT NULL, 
	workspace TEXT NOT NULL, 
	channel TEXT NOT NULL, 
	thread TEXT NOT NULL, 
	message_id TEXT NOT NULL, 
	author_id TEXT NOT NULL, 
	author_name TEXT NOT NULL, 
	author_manages_channel BOOLEAN NOT NULL, 
	author_manages_workspace BOOLEAN NOT NULL, 
	model TEXT NOT NULL, 
	params TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	attempts INTEGER NOT NULL, 
	accepted_at FLOAT NOT NULL, 
	wait_left_s FLOAT NOT NULL, 
	status TEXT NOT NULL, 
	finish_reason TEXT, 
	usage TEXT, 
	error TEXT NOT NULL, 
	finished_at FLOAT, remark TEXT DEFAULT '' NOT NULL, service_runs INTEGER DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_requests PRIMARY KEY (id), 
	CONSTRAINT ck_requests_status CHECK (status IN ('waiting', 'running', 'finished', 'failed', 'cancelled')), 
	CONSTRAINT uq_requests_request_id UNIQUE (request_id)
);
INSERT INTO "requests" VALUES(1,'e21a17c5d25942b5ac52ca3aa49e7e70','scripted','team','general','','message-2','id-ana','Ana',0,0,'small','{"temperature":0.7,"top_p":0.95,"top_k":0,"repetition_penalty":1.1,"max_tokens":512,"stop":[],"seed":null}','answer',0,1.79592385787318205834e+09,600.0,'finished','stop','{"prompt_tokens":1,"cached_tokens":0,"generated_tokens":3,"queue_s":0.1,"prefill_s":0.2,"decode_s":0.3,"context_window":2048,"dropped_turns":0}','',1.79592385793047976498e+09,'',1);
INSERT INTO "requests" VALUES(2,'25b5b3d1ef024c41b3076cf0ac987a17','scripted','team','general','','message-4','id-ben','Ben',0,0,'small','{"temperature":0.7,"top_p":0.95,"top_k":0,"repetition_penalty":1.1,"max_tokens":512,"stop":[],"seed":null}','answer',0,1.79592385796023964886e+09,600.0,'finished','stop','{"prompt_tokens":6,"cached_tokens":3,"generated_tokens":4,"queue_s":0.1,"prefill_s":0.2,"decode_s":0.3,"context_window":2048,"dropped_turns":0}','',1.79592385797254085536e+09,'',1);
INSERT INTO "requests" VALUES(3,'16af95831c6543858a7d754101b95615','scripted','team','random','','message-5','id-ana','Ana',0,0,'small','{"temperature":0.7,"top_p":0.95,"top_k":0,"repetition_penalty":1.1,"max_tokens":512,"stop":[],"seed":null}','answer',0,1.79592385798055887225e+09,600.0,'finished','stop','{"prompt_tokens":3,"cached_tokens":1,"generated_tokens":5,"queue_s":0.1,"prefill_s":0.2,"decode_s":0.3,"context_window":2048,"dropped_turns":0}','',1.79592385801570892335e+09,'',1);
INSERT INTO "requests" VALUES(4,'05385101fcc24fa792059934b2ab5870','scripted','team','general','','message-7','id-ana','Ana',0,0,'small','{"temperature":0.7,"top_p":0.95,"top_k":0,"repetition_penalty":1.1,"max_tokens":512,"stop":[],"seed":null}','answer',0,1.79592385806790161132e+09,600.0,'running',NULL,NULL,'',NULL,'',1);
INSERT INTO "requests" VALUES(5,'0c55b653b13646bdaed776525a02238b','scripted','team','general','','message-8','id-ben','Ben',0,0,'small','{"temperature":0.7,"top_p":0.95,"top_k":0,"repetition_penalty":1.1,"max_tokens":512,"stop":[],"seed":null}','answer',0,1.79592385812036037448e+09,5.94255285308999873453e+02,'waiting',NULL,NULL,'',NULL,'',0);
INSERT INTO "requests" VALUES(6,'753635a88f8f4b6fbe37d6f195882e7c','scripted','team','general','','message-9','id-cleo','Cleo',0,0,'small','{"temperature":0.7,"top_p":0.95,"top_k":0,"repetition_penalty":1.1,"max_tokens":512,"stop":[],"seed":null}','answer',0,1.7959238588572158813e+09,5.94987656677000131821e+02,'waiting',NULL,NULL,'',NULL,'',0);
CREATE TABLE settings (
	platform TEXT NOT NULL, 
	workspace TEXT NOT NULL, 
	channel TEXT NOT NULL, 
	thread TEXT NOT NULL, 
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT pk_settings PRIMARY KEY (platform, workspace, channel, thread, name)
)
 WITHOUT ROWID

;
INSERT INTO "settings" VALUES('scripted','team','general','','system','You are a pirate.');
CREATE TABLE turns (
	id INTEGER NOT NULL, 
	platform TEXT NOT NULL, 
	workspace TEXT NOT NULL, 
	channel TEXT NOT NULL, 
	thread TEXT NOT NULL, 
	role TEXT NOT NULL, 
	author_id TEXT NOT NULL, 
	author TEXT NOT NULL, 
	text TEXT NOT NULL, 
	message_id TEXT NOT NULL, 
	sent_at FLOAT NOT NULL, 
	request_id TEXT, 
	hidden BOOLEAN NOT NULL, 
	CONSTRAINT pk_turns PRIMARY KEY (id), 
	CONSTRAINT ck_turns_role CHECK (role IN ('system', 'user', 'assistant')), 
	CONSTRAINT fk_turns_request_id FOREIGN KEY(request_id) REFERENCES requests (request_id), 
	CONSTRAINT uq_turns_platform_workspace_channel_thread_message_id_role UNIQUE (platform, workspace, channel, thread, message_id, role)
);
INSERT INTO "turns" VALUES(1,'scripted','team','general','','user','id-ana','Ana','hello','message-2',2.0,NULL,0);
INSERT INTO "turns" VALUES(2,'scripted','team','general','','assistant','','','You said: hello','message-2',2.0,'e21a17c5d25942b5ac52ca3aa49e7e70',0);
INSERT INTO "turns" VALUES(3,'scripted','team','general','','user','id-ben','Ben','and me?','message-4',4.0,NULL,0);
INSERT INTO "turns" VALUES(4,'scripted','team','general','','assistant','','','You said: and me?','message-4',4.0,'25b5b3d1ef024c41b3076cf0ac987a17',0);
INSERT INTO "turns" VALUES(5,'scripted','team','random','','user','id-ana','Ana','forget me not','message-5',5.0,NULL,1);
INSERT INTO "turns" VALUES(6,'scripted','team','random','','assistant','','','You said: forget me not','message-5',5.0,'16af95831c6543858a7d754101b95615',1);
INSERT INTO "turns" VALUES(7,'scripted','team','general','','user','id-ana','Ana','third','message-7',7.0,NULL,0);
INSERT INTO "turns" VALUES(8,'scripted','team','general','','user','id-ben','Ben','fourth','message-8',8.0,NULL,0);
INSERT INTO "turns" VALUES(9,'scripted','team','general','','user','id-cleo','Cleo','fifth','message-9',9.0,NULL,0);
CREATE INDEX ix_requests_accepted ON requests (platform, workspace, channel, thread, accepted_at);
CREATE INDEX ix_requests_message ON requests (platform, workspace, channel, thread, message_id);
CREATE INDEX ix_requests_status ON requests (status);
CREATE INDEX ix_turns_order ON turns (platform, workspace, channel, thread, sent_at, id);
CREATE INDEX ix_outbox_platform_id ON outbox (platform, workspace, channel, platform_id);
CREATE INDEX ix_outbox_state ON outbox (state);
CREATE INDEX ix_inbox_received_at ON inbox (received_at);
CREATE INDEX ix_requests_finished_at ON requests (finished_at);
CREATE INDEX ix_turns_sent_at ON turns (sent_at);
CREATE INDEX ix_turns_request_id ON turns (request_id);
COMMIT;
